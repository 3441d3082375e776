"""Attempts by another account of the host, which has no session and no right."""

import subprocess

from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.outside.stranger import Stranger
from gateway.domain.plan import SSH_PORT

ROOT, NOBODY = 0, 65534
_SECONDS = 3


def around_the_entry_point(stranger: Stranger) -> Outcome:
    """A connection from the host straight into the victim's session, as the account nobody."""
    try:
        if not stranger.connects_as(ROOT, stranger.victim_address):
            return Outcome(Verdict.UNCLEAR, "root of the host does not reach the session either")
        if stranger.connects_as(NOBODY, stranger.victim_address):
            return Outcome(Verdict.THROUGH, f"nobody connects to {stranger.victim_address} port {SSH_PORT}")
    except PermissionError:
        return Outcome(Verdict.UNTRIED, "the doctor may not become another account here")
    return Outcome(Verdict.STOPPED, "the connection was refused")


def connects_as(uid: int, address: str) -> bool:
    """Whether an account of this host gets a connection to a session's sshd. Raises `PermissionError`."""
    connect = f"exec 3<>/dev/tcp/{address}/{SSH_PORT}"
    command = ["timeout", str(_SECONDS), "bash", "-c", connect]
    done = subprocess.run(command, user=uid, group=uid, extra_groups=[], capture_output=True, check=False)
    return done.returncode == 0
