"""A throw-away cluster on this machine, with a gateway in front and one session.

    make cluster

keeps it until Ctrl-C, and then nothing of it is left. The cluster is that of the tests: one node with one
A100, which a stand-in for NVIDIA's DRA driver publishes. The gateway and the router are its pods; only
PostgreSQL runs beside it.
"""

import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests import own
from tests.fleet import programs
from tests.fleet.gateways import IMAGE
from tests.fleet.node import real_node
from tests.fleet.own_pods import own_pods

_USER = own.user("ann")
_SAYS = """
A session of {user} is open. Log in:

    {ssh}

Look at it, or open another one:

    export KUBECONFIG={kubeconfig} GATEWAY_URL={url} GATEWAY_TOKEN={token}
    {kubectl} get pods --all-namespaces
    {kubectl} get pods,resourceclaims,secrets -n gpu-sessions
    .venv/bin/gateway sessions
    .venv/bin/gateway create bob --profile 1g.5gb

Ctrl-C removes the cluster.
"""


def main() -> None:
    if missing := programs.missing():
        sys.exit(f"no {', '.join(missing)} here: python -m tests.fleet.programs builds them")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job begins with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-cluster-")))
        with _step("etcd, API server, scheduler, controller manager, kubelet"):
            node = stack.enter_context(real_node(IMAGE))
        with _step("PostgreSQL, and pods of the gateway and the router"):
            pods = stack.enter_context(own_pods(node, directory))
        with _step("a session"):
            pods.open(_USER, "3g.20gb")
        print(
            _SAYS.format(
                user=_USER,
                ssh=shlex.join(pods.ssh(_USER)),
                kubeconfig=node.plane.kubeconfig,
                url=pods.url,
                token=pods.token,
                kubectl=programs.find("kubectl"),
            ),
            flush=True,
        )
        signal.pause()


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"{title:60}", end="", flush=True)
    start = time.monotonic()
    yield
    print(f"{time.monotonic() - start:5.1f} s", flush=True)


if __name__ == "__main__":
    main()
