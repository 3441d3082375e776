"""What a session shows its user: lines of the message of the day, and facts for programs."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Board:
    """`lease` is the line about the end of the lease, with its label. `notices` maps the label of each other
    line to its text. `facts` are the contents of the file `/etc/gateway/lease`."""

    lease_label: str
    lease: str
    notices: Mapping[str, str]
    facts: Mapping[str, str]
