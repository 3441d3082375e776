"""`make cluster`: a cluster with a gateway in front, to try by hand."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.paths import REPOSITORY
from tests.whole_gateway import eventually

SECONDS = 120


def test_the_line_that_it_prints_logs_in_and_ctrl_c_leaves_nothing(programs_of_kubernetes: None) -> None:
    command = [sys.executable, "-m", "tests.fleet.cluster"]
    with ExitStack() as stack:
        cluster = stack.enter_context(
            subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(cluster.terminate)  # otherwise a failure waits for the cluster for ever
        assert cluster.stdout
        ssh = next(line for line in cluster.stdout if line.startswith("    ssh ")).split()
        variables = shlex.split(next(line for line in cluster.stdout if "KUBECONFIG=" in line))[1:]
        kubeconfig, url, _ = (variable.partition("=")[2] for variable in variables)
        directory = Path(kubeconfig).parent
        inside = subprocess.run([*ssh, "nvidia-smi -L"], capture_output=True, text=True, timeout=SECONDS)
        assert inside.stdout.count("UUID: MIG-") == 1, inside.stderr
        os.kill(cluster.pid, signal.SIGINT)
        assert cluster.wait(SECONDS) == 0
    assert not directory.exists()
    address = urlsplit(url).hostname
    with socket.socket() as client, suppress(OSError):
        client.settimeout(1)
        client.connect((address, int(ssh[ssh.index("-p") + 1])))  # some networks answer for any address
        assert not client.recv(4), "the router still runs"
    eventually(
        lambda: not list(Path("/sys/fs/cgroup").glob(f"*/{directory.name.rpartition('-')[0]}-*")), SECONDS
    )
