"""The names of settings: `ssh_port` is the flag --ssh-port and the variable GATEWAY_SSH_PORT."""

import difflib
from collections.abc import Iterable, Mapping

PREFIX = "GATEWAY_"

# Variables that are read elsewhere: by other options, by `make up`, by tests, and by users inside a session.
OTHER_VARIABLES = frozenset(
    PREFIX + name
    for name in """
    URL TOKEN TOKEN_FILE ROUTER_LISTEN ROUTER_HOST_KEY
    ROUTER_PROCESSES ROUTER_LOBBY_KEY ROUTER_LOG_LEVEL ROUTER_METRICS_LISTEN ROUTER_USER SETTINGS FAILPOINTS
    RUN_DIR FIRST_USER BASE DISK_GIB
    MIG_PROFILE LEASE_ENDS SECONDS_LEFT
    """.split()
)

# Names of one or two typing errors are at least this similar, by difflib's ratio.
_SIMILAR = 0.8


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return PREFIX + name.upper()


def title(name: str) -> str:
    """A setting as errors name it: `--ssh-port (GATEWAY_SSH_PORT)`."""
    return f"{flag(name)} ({variable(name)})"


def typing_errors(environ: Mapping[str, str], settings: Iterable[str]) -> list[str]:
    """An error for each variable that is set and no setting, but has a name similar to one.

    They stop the start: a server whose GATEWAY_WORKSPACE_QOUTA is ignored has no quota at all. Variables of
    other programs, such as CGI's GATEWAY_INTERFACE, are not similar enough.
    """
    known = {variable(name) for name in settings} | OTHER_VARIABLES
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    return [
        f"{name} is not a setting: use {meant}, or unset it."
        for name in unknown
        if environ[name].strip() and (meant := _most_similar(name, known))
    ]


def _most_similar(name: str, known: Iterable[str]) -> str | None:
    endings = [each.removeprefix(PREFIX) for each in known]
    found = difflib.get_close_matches(name.removeprefix(PREFIX), endings, n=1, cutoff=_SIMILAR)
    return PREFIX + found[0] if found else None
