"""The NVIDIA container toolkit of this host, which attaches GPUs to containers."""

import re
import subprocess

_PRINTED = re.compile(r"version (\d\S*)")
_SECONDS = 5


def toolkit_version(program: str = "nvidia-ctk") -> str | None:
    """Return the version; None if the program is not installed here, as in the gateway's container."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _PRINTED.search(done.stdout)
    return found[1] if found else None
