"""The accounts and groups of the host, from /etc/passwd, LDAP or wherever the host has them."""

import grp
import pwd
from contextlib import suppress


def name_of(number: int) -> str | None:
    """The name of the account, or else of the group, that has this number; None if there is neither."""
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    with suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return None
