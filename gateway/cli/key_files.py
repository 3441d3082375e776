"""Reads files with public keys, such as id_ed25519.pub."""

from collections.abc import Sequence
from typing import TextIO

import click


def public_keys(files: Sequence[TextIO], argument: str) -> list[str]:
    """Return the lines with keys. `argument` names the files in the error. Raises `click.UsageError`."""
    try:
        lines = [line.strip() for file in files for line in file]
    except UnicodeDecodeError:
        raise click.UsageError(f"{argument}: this is not a file of public keys.") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if any("PRIVATE KEY" in line for line in found):
        raise click.UsageError(f"{argument}: this is a private key: give the file that ends with .pub.")
    if not found:
        raise click.UsageError(f"{argument}: there is no key in these files.")
    return found
