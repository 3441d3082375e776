"""Attempts by another account of the host, which has neither a session nor a token."""

import subprocess

from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.outside.attacker import Attacker
from gateway.domain.plan import SSH_PORT

ROOT, NOBODY = 0, 65534
_SECONDS = 3


def around_the_entry_point(attacker: Attacker) -> Outcome:
    """Connect from the host directly to the victim's session, as the account `nobody`."""
    if attacker.connects_as is None:
        return Outcome(Verdict.UNTRIED, "the accounts of the nodes are not the gateway's")
    try:
        if not attacker.connects_as(ROOT, attacker.victim_address):
            return Outcome(Verdict.UNCLEAR, "root of the host cannot connect to the session either")
        if attacker.connects_as(NOBODY, attacker.victim_address):
            return Outcome(
                Verdict.THROUGH, f"{attacker.victim_address} port {SSH_PORT} accepts the account nobody"
            )
    except PermissionError:
        return Outcome(Verdict.UNTRIED, "the doctor cannot change to another account here")
    return Outcome(Verdict.STOPPED, "the connection was refused")


def connects_as(uid: int, address: str) -> bool:
    """Whether an account of this host can connect to a session's sshd. Raises `PermissionError`."""
    connect = f"exec 3<>/dev/tcp/{address}/{SSH_PORT}"
    command = ["timeout", str(_SECONDS), "bash", "-c", connect]
    done = subprocess.run(command, user=uid, group=uid, extra_groups=[], capture_output=True, check=False)
    return done.returncode == 0
