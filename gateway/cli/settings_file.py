"""The settings file: variables for every command of this machine, as systemd's units read them too.

`make up` writes it, and administrators do for the systemd units. It may hold the password of the database,
so it belongs to root alone.
"""

import io
from collections.abc import MutableMapping
from pathlib import Path

from dotenv import dotenv_values

from gateway.errors import StartRefused

DEFAULT = Path("/etc/default/gpu-ssh-gateway")


def apply(environ: MutableMapping[str, str], command: str, needs_settings: bool) -> None:
    """Set the variables of the file that `environ` does not have. GATEWAY_SETTINGS names another file.

    Raises `StartRefused` when the file cannot be read, unless `command` can do without settings.
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
    for name, value in dotenv_values(stream=io.StringIO(text), interpolate=False).items():
        if value is not None:
            environ.setdefault(name, value)
