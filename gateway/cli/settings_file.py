"""The settings file: variables for every command of this machine, as systemd's units read them too.

`make up` writes it, and administrators do for the systemd units. It may hold the password of the database,
so it belongs to root alone.
"""

import io
from collections.abc import MutableMapping
from pathlib import Path

from dotenv.parser import parse_stream

from gateway.errors import StartRefused

DEFAULT = Path("/etc/default/gpu-ssh-gateway")


def apply(environ: MutableMapping[str, str], command: str, needs_settings: bool) -> None:
    """Set the variables of the file that `environ` does not have. GATEWAY_SETTINGS names another file.

    Raises `StartRefused` when the file cannot be read, unless `command` can do without settings, and when a
    line of it sets nothing.
    """
    named = environ.get("GATEWAY_SETTINGS", "").strip()
    path = Path(named or DEFAULT)
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        if named:
            raise StartRefused(
                f"GATEWAY_SETTINGS: there is no file {path}: name another file, or unset it."
            ) from error
        return
    except PermissionError as error:
        if needs_settings:
            raise StartRefused(
                f"Only root can read the gateway's settings in {path}: run `sudo gateway {command}`."
            ) from error
        return
    except (OSError, UnicodeError) as error:
        raise StartRefused(f"The settings file {path} cannot be read ({error}).") from error
    for name, value in _variables(text, path).items():
        environ.setdefault(name, value)


def _variables(text: str, path: Path) -> dict[str, str]:
    """The variables of the file. A limit on a line that is skipped would be no limit. The error has no word
    of the line, which may be a password."""
    variables: dict[str, str] = {}
    for found in parse_stream(io.StringIO(text)):
        written = found.original.string
        if found.key is not None and found.value is not None and "\0" not in written:
            variables[found.key] = found.value
        elif found.key is not None or found.error and not written.lstrip().startswith(";"):
            line = found.original.line + len(written) - len(written.lstrip("\n"))
            raise StartRefused(f"Line {line} of the settings file {path} is not NAME=VALUE: correct it.")
    return variables
