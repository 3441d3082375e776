"""Attempts at the SSH entry point, with the stock client."""

from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.outside.stranger import Stranger

_NEVER_ARRIVED = (
    "Connection refused",
    "timed out",
    "Could not resolve",
    "No route to host",
    "Bad configuration",
)
_ALL_BUT_KEYS = "PreferredAuthentications=none,password,keyboard-interactive,hostbased,gssapi-with-mic"


def rightful(stranger: Stranger) -> Outcome | None:
    """None when the victim gets in by the own key; else nothing that follows would mean anything."""
    code, said = stranger.login(stranger.victim.user_id, stranger.victim.private_key)
    if code == 0:
        return None
    return Outcome(Verdict.UNCLEAR, f"the rightful user does not get in either: {_last(said)}")


def with_another_users_key(stranger: Stranger) -> Outcome:
    """Another user's name, with the key of one's own session."""
    return _refused(stranger.login(stranger.victim.user_id, stranger.own.private_key))


def with_a_password(stranger: Stranger) -> Outcome:
    """Passwords, questions and no authentication at all: the entry point must not even offer them."""
    options = ("-o", "PubkeyAuthentication=no", "-o", _ALL_BUT_KEYS)
    return _offered_keys_alone(stranger.login(stranger.victim.user_id, stranger.own.private_key, *options))


def as_nobody(stranger: Stranger) -> Outcome:
    """Users who have no session, and names that are paths, options or patterns."""
    for name in ("root", "doctor-nobody", "*", "../doctor-victim", "^doctor-.*$", "doctor-victim%x"):
        outcome = _refused(stranger.login(name, stranger.victim.private_key))
        if outcome.verdict is not Verdict.STOPPED:
            return Outcome(outcome.verdict, f"as {name}: {outcome.why}")
    return outcome


def behind_a_changed_host_key(stranger: Stranger) -> Outcome:
    """A session that shows another host key than its own: a stranger in its place must not get the user."""
    with stranger.another_host():
        outcome = _refused(stranger.login(stranger.victim.user_id, stranger.victim.private_key))
    return rightful(stranger) or outcome


def with_an_ended_sessions_key(stranger: Stranger) -> Outcome:
    """The victim's key, once the session has ended."""
    return _refused(stranger.login(stranger.victim.user_id, stranger.victim.private_key))


def _offered_keys_alone(login: tuple[int, str]) -> Outcome:
    outcome = _refused(login)
    if outcome.verdict is Verdict.STOPPED and "(publickey)" not in outcome.why:
        return Outcome(Verdict.UNCLEAR, f"not refused for want of a key: {outcome.why}")
    return outcome


def _refused(login: tuple[int, str]) -> Outcome:
    code, said = login
    if code != 255:  # ssh's own failures; any other is that of a command inside
        return Outcome(Verdict.THROUGH, "it is logged in")
    if any(words in said for words in _NEVER_ARRIVED):
        return Outcome(Verdict.UNCLEAR, _last(said))
    return Outcome(Verdict.STOPPED, _last(said))


def _last(said: str) -> str:
    return (said.strip().splitlines() or ["ssh said nothing"])[-1].strip()
