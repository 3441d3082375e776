"""Attempts from the egress proxy: what a named host whose address changes, or a hole in Squid, can use."""

from collections.abc import Callable, Collection, Sequence

from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.outside.attacker import Attacker
from gateway.domain.plan import SSH_PORT
from gateway.errors import Unavailable

Run = Callable[[Sequence[str]], tuple[int, str]]  # a command in the proxy -> its exit code and output

_METADATA = "169.254.169.254 80"
_PORTS = (22, 80, 2375, 8080)
_MOST_ADDRESSES = 8  # the proxy can have 64 processes
_RAN = "ran"
_CONNECT = f"""\
while [ $# -gt 0 ]; do
    timeout 2 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null && echo "$1 port $2" &
    shift 2
done
wait
echo {_RAN}
"""


def beyond_the_allowlist(attacker: Attacker) -> Outcome:
    """Connect from the egress proxy to the host, to the victim's session and to the cloud's metadata."""
    if attacker.connected_from_proxy is None:
        return Outcome(Verdict.UNTRIED, "there is no proxy in which the gateway runs commands")
    ipv4 = [address for address in attacker.hosts if ":" not in address][:_MOST_ADDRESSES]
    targets = [f"{address} {port}" for address in ipv4 for port in _PORTS]
    targets += [f"{attacker.victim_address} {SSH_PORT}", _METADATA]
    if connected := attacker.connected_from_proxy(targets):
        return Outcome(Verdict.THROUGH, f"{connected[0]} accepts a connection")
    return Outcome(Verdict.STOPPED, f"no connection to {len(targets)} targets")


def connected(run: Run, targets: Collection[str]) -> Sequence[str]:
    """Return those of `targets`, each as `ADDRESS PORT`, that accept a connection from the proxy.

    Raises `Unavailable` if the proxy cannot run the attempt.
    """
    words = [word for target in targets for word in target.split()]
    code, output = run(["bash", "-c", _CONNECT, "connect", *words])
    *found, last = output.strip().splitlines() or [""]
    if code or last != _RAN:
        raise Unavailable(f"the proxy cannot run the attempt: {last[:200]}")
    return found
