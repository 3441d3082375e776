"""Attempts at the API: who may not call it, and what must not be in a request."""

from collections.abc import Collection, Iterable
from urllib.parse import quote

from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.outside.stranger import Stranger

Request = tuple[str, str, object]  # method, path, body

# Nobody's token has such a form; a header cannot hold the control characters of the names below.
_FORGED = (
    "",
    "gsg_" + "A" * 43,
    "' OR 1=1 --",
    "../../etc/passwd",
    "gsg_: &a *a",
    "Bearer Bearer",
    "A" * 8000,
)
_NAMES = (
    "../doctor-victim",
    "doctor-victim/../../etc",
    "/etc/passwd",
    "..",
    "",
    "doctor-victim\n- from:",
    "doctor: victim",
    "&anchor",
    "*alias",
    "!!python/object",
    "{from: x}",
    "[doctor]",
    "'doctor'",
    '"doctor"',
    "doctor#victim",
    "doctor\x00victim",
    "doctor\u2028victim",
    "%2e%2e%2fdoctor",
    "$(reboot)",
    "root",
    "d" * 200,
)
_KEYLESS = (
    [""],
    ["\n"],
    ["# a comment"],
    ["ssh-ed25519"],
    ["ssh-ed25519 AAAA"],
    ["*"],
    ["cert-authority ssh-ed25519 AAAA"],
    ['command="sh" ssh-ed25519 AAAA'],
    ["ssh-ed25519 AAAA\n- from:"],
    [None],
)
_UNKNOWN_GPU = 9999  # there is none: nothing happens should it be allowed


def without_a_token(stranger: Stranger) -> Outcome:
    """Everything that the API offers, asked without a token."""
    if stranger.administrators is None:
        return _nobody_needs_one()
    return _denied(stranger, _requests(stranger), None, {401, 429})


def with_a_forged_token(stranger: Stranger) -> Outcome:
    """The list of sessions, with tokens that were never made and with text that is none."""
    if stranger.administrators is None:
        return _nobody_needs_one()
    for token in _FORGED:
        outcome = _denied(stranger, [("GET", "/sessions", None)], token, {401, 429})
        if outcome.verdict is not Verdict.STOPPED:
            return outcome
    return Outcome(Verdict.STOPPED, f"{len(_FORGED)} tokens: 401, or 429 after too many")


def with_an_expired_token(stranger: Stranger) -> Outcome:
    """Everything that the API offers, with a token that was valid a moment ago."""
    if stranger.expired is None:
        return _nobody_needs_one()
    return _denied(stranger, _requests(stranger), stranger.expired, {401, 429})


def with_the_wrong_role(stranger: Stranger) -> Outcome:
    """With a user's token: an operator's acts, and what names others."""
    if stranger.token is None:
        return _nobody_needs_one()
    requests: list[Request] = [
        ("PUT", f"/gpus/{_UNKNOWN_GPU}/cordon", {"reason": "doctor"}),
        ("DELETE", f"/gpus/{_UNKNOWN_GPU}/cordon", None),
        ("PUT", f"/sessions/{stranger.own.session_id}/keys", {"ssh_public_keys": [""]}),
        ("GET", "/events", None),
    ]
    return _denied(stranger, requests, stranger.token, {403})


def as_another_user(stranger: Stranger) -> Outcome:
    """With a user's token: another's session and keys, looked at and changed."""
    if stranger.token is None:
        return _nobody_needs_one()
    victim = stranger.victim
    requests: list[Request] = [
        ("GET", f"/sessions/{victim.session_id}", None),
        ("GET", f"/sessions/{victim.session_id}/events", None),
        ("DELETE", f"/sessions/{victim.session_id}", None),
        ("POST", "/sessions", {"user_id": victim.user_id, "ttl_minutes": 1}),
        ("GET", f"/users/{victim.user_id}/keys", None),
        ("PUT", f"/users/{victim.user_id}/keys", {"ssh_public_keys": []}),
    ]
    return _denied(stranger, requests, stranger.token, {403, 404})


def smuggled_names(stranger: Stranger) -> Outcome:
    """Names that are paths, YAML or shell, in bodies and URLs; the routes must stay as they are."""
    before = stranger.routed()
    requests: list[Request] = []
    for name in _NAMES:
        encoded = quote(name, safe="")
        requests += [
            ("POST", "/sessions", {"user_id": name, "ttl_minutes": 1}),
            ("POST", "/sessions", {"user_id": "doctor-name", "ttl_minutes": 1, "mig_profile": name or " "}),
            ("GET", f"/users/{encoded}/keys", None),
            ("PUT", f"/users/{encoded}/keys", {"ssh_public_keys": []}),
            ("GET", f"/sessions/{encoded}", None),
            ("DELETE", f"/sessions/{encoded}", None),
        ]
    refusals = {308, 400, 404, 405, 409, 422}
    # without a name these are other paths: the list of sessions, and a redirect to it
    requests = [request for request in requests if request[1] not in ("/sessions/", "/users//keys")]
    outcome = _denied(stranger, requests, stranger.administrators, refusals)
    if outcome.verdict is Verdict.STOPPED and sorted(stranger.routed()) != sorted(before):
        return Outcome(Verdict.THROUGH, "the routes are not those of before")
    return outcome


def keyless_sessions(stranger: Stranger) -> Outcome:
    """A session for a user with a public key that is none: its route would let anybody in."""
    requests: list[Request] = [
        ("POST", "/sessions", {"user_id": "doctor-name", "ttl_minutes": 1, "ssh_public_keys": keys})
        for keys in _KEYLESS
    ]
    return _denied(stranger, requests, stranger.administrators, {400, 422})


def _requests(stranger: Stranger) -> list[Request]:
    victim = stranger.victim
    return [
        ("GET", "/sessions", None),
        ("GET", f"/sessions/{victim.session_id}", None),
        ("DELETE", f"/sessions/{victim.session_id}", None),
        ("POST", "/sessions", {"user_id": "doctor-name", "ttl_minutes": 1}),
        ("PUT", f"/sessions/{victim.session_id}/keys", {"ssh_public_keys": []}),
        ("GET", f"/users/{victim.user_id}/keys", None),
        ("PUT", f"/users/{victim.user_id}/keys", {"ssh_public_keys": []}),
        ("GET", "/gpus", None),
        ("PUT", f"/gpus/{_UNKNOWN_GPU}/cordon", {"reason": "doctor"}),
        ("GET", "/events", None),
    ]


def _denied(
    stranger: Stranger, requests: Iterable[Request], token: str | None, refusals: Collection[int]
) -> Outcome:
    """Whether each request is answered with one of `refusals`."""
    answers: dict[int, int] = {}
    for method, path, body in requests:
        status = stranger.ask(method, path, body, token)
        asked = f"{method} {path}" + (f" {body}" if body else "")
        if status >= 500:
            return Outcome(Verdict.UNCLEAR, f"{asked} was answered {status}")
        if status not in refusals:
            return Outcome(Verdict.THROUGH, f"{asked} was answered {status}")
        answers[status] = answers.get(status, 0) + 1
    told = ", ".join(f"{count} x {status}" for status, count in sorted(answers.items()))
    return Outcome(Verdict.STOPPED, told)


def _nobody_needs_one() -> Outcome:
    return Outcome(
        Verdict.UNTRIED,
        "the doctor brings no token: where none was made yet, this host may do all "
        "(`gateway token create`); else give it an administrator's in GATEWAY_TOKEN",
    )
