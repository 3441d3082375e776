"""Attempts at the SSH entry point, with OpenSSH's client."""

from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.outside.attacker import Attacker

_CONNECTION_FAILURES = (
    "Connection refused",
    "timed out",
    "Could not resolve",
    "No route to host",
    "Bad configuration",
)
_ALL_BUT_KEYS = "PreferredAuthentications=none,password,keyboard-interactive,hostbased,gssapi-with-mic"


def owner_cannot_log_in(attacker: Attacker) -> Outcome | None:
    """Return None if the victim's own key opens the session. Otherwise a refused attack proves nothing."""
    code, stderr = attacker.login(attacker.victim.user_id, attacker.victim.private_key)
    if code == 0:
        return None
    return Outcome(Verdict.UNCLEAR, f"the owner of the session cannot log in either: {_last_line(stderr)}")


def with_another_users_key(attacker: Attacker) -> Outcome:
    """Log in as another user with the key of the attacker's own session."""
    return _refused(attacker.login(attacker.victim.user_id, attacker.own.private_key))


def with_a_password(attacker: Attacker) -> Outcome:
    """Log in with passwords, questions and without authentication. The entry point must not offer them."""
    options = ("-o", "PubkeyAuthentication=no", "-o", _ALL_BUT_KEYS)
    return _offers_only_keys(attacker.login(attacker.victim.user_id, attacker.own.private_key, *options))


def without_a_session(attacker: Attacker) -> Outcome:
    """Log in as users without a session, and with names that are paths, options or patterns."""
    for name in ("root", "doctor-nobody", "*", "../doctor-victim", "^doctor-.*$", "doctor-victim%x"):
        outcome = _refused(attacker.login(name, attacker.victim.private_key))
        if outcome.verdict is not Verdict.STOPPED:
            return Outcome(outcome.verdict, f"as {name}: {outcome.why}")
    return outcome


def with_a_changed_host_key(attacker: Attacker) -> Outcome:
    """Let a session show another host key: a machine in the session's place must not receive its user."""
    with attacker.changed_host_key():
        outcome = _refused(attacker.login(attacker.victim.user_id, attacker.victim.private_key))
    return owner_cannot_log_in(attacker) or outcome


def with_an_ended_sessions_key(attacker: Attacker) -> Outcome:
    """Log in with the victim's key after the session has ended."""
    return _refused(attacker.login(attacker.victim.user_id, attacker.victim.private_key))


def _offers_only_keys(login: tuple[int, str]) -> Outcome:
    outcome = _refused(login)
    if outcome.verdict is Verdict.STOPPED and "(publickey)" not in outcome.why:
        return Outcome(Verdict.UNCLEAR, f"refused for another reason than a missing key: {outcome.why}")
    return outcome


def _refused(login: tuple[int, str]) -> Outcome:
    code, stderr = login
    if code != 255:  # 255 is a failure of ssh itself; any other code comes from the command inside
        return Outcome(Verdict.THROUGH, "the login succeeded")
    if any(words in stderr for words in _CONNECTION_FAILURES):
        return Outcome(Verdict.UNCLEAR, _last_line(stderr))
    return Outcome(Verdict.STOPPED, _last_line(stderr))


def _last_line(stderr: str) -> str:
    return (stderr.strip().splitlines() or ["ssh printed nothing"])[-1].strip()
