"""Attempts at the API: missing rights and malicious requests."""

from collections.abc import Collection, Iterable
from urllib.parse import quote

from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.outside.attacker import Attacker

Request = tuple[str, str, object]  # method, path, body

# No valid token has one of these forms. A header cannot hold the control characters of the names below.
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
_PROBES = 2000  # each process of the API counts for itself
_UNKNOWN_GPU = 9999  # no GPU has this index, so the request has no effect even if it is allowed


def without_a_token(attacker: Attacker) -> Outcome:
    """Send every kind of request without a token."""
    if attacker.admin_token is None:
        return _no_tokens_in_use()
    return _denied(attacker, _requests(attacker), None, {401, 429})


def with_a_forged_token(attacker: Attacker) -> Outcome:
    """List the sessions with unknown tokens and with text that is not a token."""
    if attacker.admin_token is None:
        return _no_tokens_in_use()
    for token in _FORGED:
        outcome = _denied(attacker, [("GET", "/sessions", None)], token, {401, 429})
        if outcome.verdict is not Verdict.STOPPED:
            return outcome
    return Outcome(Verdict.STOPPED, f"{len(_FORGED)} tokens: 401, or 429 after too many")


def with_an_expired_token(attacker: Attacker) -> Outcome:
    """Send every kind of request with a token that has just expired."""
    if attacker.expired is None:
        return _no_tokens_in_use()
    return _denied(attacker, _requests(attacker), attacker.expired, {401, 429})


def with_the_wrong_role(attacker: Attacker) -> Outcome:
    """With a user's token, send requests that need an operator's."""
    if attacker.token is None:
        return _no_tokens_in_use()
    requests: list[Request] = [
        ("PUT", f"/gpus/{_UNKNOWN_GPU}/cordon", {"reason": "doctor"}),
        ("DELETE", f"/gpus/{_UNKNOWN_GPU}/cordon", None),
        ("PUT", f"/sessions/{attacker.own.session_id}/keys", {"ssh_public_keys": [""]}),
        ("GET", "/events", None),
    ]
    return _denied(attacker, requests, attacker.token, {403})


def as_another_user(attacker: Attacker) -> Outcome:
    """With a user's token, read and change another user's session and keys."""
    if attacker.token is None:
        return _no_tokens_in_use()
    victim = attacker.victim
    requests: list[Request] = [
        ("GET", f"/sessions/{victim.session_id}", None),
        ("GET", f"/sessions/{victim.session_id}/events", None),
        ("DELETE", f"/sessions/{victim.session_id}", None),
        ("POST", "/sessions", {"user_id": victim.user_id, "ttl_minutes": 1}),
        ("GET", f"/users/{victim.user_id}/keys", None),
        ("PUT", f"/users/{victim.user_id}/keys", {"ssh_public_keys": []}),
    ]
    return _denied(attacker, requests, attacker.token, {403, 404})


def smuggled_names(attacker: Attacker) -> Outcome:
    """Use paths, YAML and shell code as names in bodies and URLs. The routes must stay unchanged."""
    before = attacker.routed()
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
    # Without a name these are other paths: the list of sessions, and a redirect to it.
    requests = [request for request in requests if request[1] not in ("/sessions/", "/users//keys")]
    outcome = _denied(attacker, requests, attacker.admin_token, refusals)
    if outcome.verdict is Verdict.STOPPED and sorted(attacker.routed()) != sorted(before):
        return Outcome(Verdict.THROUGH, "the routes have changed")
    return outcome


def keyless_sessions(attacker: Attacker) -> Outcome:
    """Open a session with invalid public keys: SSHPiper lets anyone in through a route without keys."""
    requests: list[Request] = [
        ("POST", "/sessions", {"user_id": "doctor-name", "ttl_minutes": 1, "ssh_public_keys": keys})
        for keys in _KEYLESS
    ]
    return _denied(attacker, requests, attacker.admin_token, {400, 422})


def flooded_health_checks(attacker: Attacker) -> Outcome:
    """Send very many requests for /readyz without a token: its checks start processes as root."""
    if attacker.admin_token is None:
        return _no_tokens_in_use()
    for sent in range(_PROBES):
        status = attacker.ask("GET", "/readyz", None, None)
        if status == 429:
            return Outcome(Verdict.STOPPED, f"429 after {sent} requests")
        if status not in (200, 503):
            return Outcome(Verdict.UNCLEAR, f"GET /readyz was answered {status}")
    return Outcome(Verdict.THROUGH, f"{_PROBES} requests were answered")


def _requests(attacker: Attacker) -> list[Request]:
    victim = attacker.victim
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
    attacker: Attacker, requests: Iterable[Request], token: str | None, refusals: Collection[int]
) -> Outcome:
    """Send the requests, and check that the status of each response is one of `refusals`."""
    counts: dict[int, int] = {}
    for method, path, body in requests:
        status = attacker.ask(method, path, body, token)
        request = f"{method} {path}" + (f" {body}" if body else "")
        if status >= 500:
            return Outcome(Verdict.UNCLEAR, f"{request} was answered {status}")
        if status not in refusals:
            return Outcome(Verdict.THROUGH, f"{request} was answered {status}")
        counts[status] = counts.get(status, 0) + 1
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))
    return Outcome(Verdict.STOPPED, statuses)


def _no_tokens_in_use() -> Outcome:
    return Outcome(
        Verdict.UNTRIED,
        "the doctor has no token: set an administrator's in GATEWAY_TOKEN; before the first token "
        "(`gateway token create`) every local client may do everything",
    )
