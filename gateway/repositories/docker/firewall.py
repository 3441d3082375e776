"""nftables, through the command nft: rules in tables that belong to the gateway.

A packet that one table drops is dropped, even if another table accepts it. Rules of Docker, of ufw or of an
administrator cannot open what these rules close, and the order of the tables does not matter.
"""

import hashlib
import os
import re
import socket
import struct
import subprocess
from collections.abc import Sequence

from gateway.errors import NetworkUnavailable

_TIMEOUT_SECONDS = 10.0
# linux/netfilter/nfnetlink.h, nf_tables.h. The number is the first attribute of the response.
_NETLINK_NETFILTER, _NLM_F_REQUEST = 12, 1
_NEW_GENERATION, _GET_GENERATION = 10 << 8 | 15, 10 << 8 | 16
_MISSING = "No such file or directory"  # nft's words for a table that does not exist
_RULE = re.compile(r"^( {8}(?!type )\S.*)$", re.MULTILINE)  # in a chain, in a table


class Ruleset:
    """The tables of one name, one for each family. One transaction replaces all of them.

    `text` is in the syntax of nft: chains are indented by four spaces, rules by eight. Each rule gets a
    comment, by which `is_loaded` recognises that all rules are there and that none belongs to an older text.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.version = hashlib.sha256(text.encode()).hexdigest()[:8]
        self._families = re.findall(r"^table (\S+)", text, re.MULTILINE)
        count = len(_RULE.findall(text))
        self._comments = [f'comment "{self.version} {number}/{count}"' for number in range(1, count + 1)]
        comments = iter(self._comments)
        self._text = _RULE.sub(lambda rule: f"{rule[1]} {next(comments)}", text)

    def is_loaded(self, namespace: str | None = None) -> bool:
        """Whether every rule is in the kernel. Raises `NetworkUnavailable` when nft cannot list the tables.

        `namespace` is the path of a network namespace; None is the gateway's own.
        """
        listed = "".join(_list(family, self.name, namespace) for family in self._families)
        return all(comment in listed for comment in self._comments)

    def load(self, namespace: str | None = None, *, is_new: bool = False) -> None:
        """Replace all tables of this name. Raises `NetworkUnavailable`.

        `is_new`: the namespace certainly has no such tables. That saves 9 ms.
        """
        _load(self._text if is_new else self._removal() + self._text, namespace)

    def remove(self) -> None:
        """Raises `NetworkUnavailable`."""
        _load(self._removal())

    def _removal(self) -> str:
        """nft fails to delete a table that does not exist: the first line of each pair makes it."""
        tables = [f"table {family} {self.name}" for family in self._families]
        return "".join(f"{table} {{ }}\ndelete {table}\n" for table in tables)


def generation() -> int | None:
    """Return a number that the kernel changes with every change of a table in the gateway's own namespace.

    None: the kernel does not report it. Reading the number takes 35 µs; listing a table starts a process.
    """
    request = struct.pack("=IHHII BBH", 20, _GET_GENERATION, _NLM_F_REQUEST, 1, 0, 0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
            kernel.settimeout(1)
            kernel.send(request)
            response = kernel.recv(4096)
    except OSError:
        return None
    kind, attribute = struct.unpack_from("=H", response, 4)[0], response[20:28]
    return int.from_bytes(attribute[4:]) if kind == _NEW_GENERATION else None


def run(
    command: Sequence[str], script: str = "", namespace: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a network command with `script` as its input. Raises `NetworkUnavailable` when it cannot run."""
    inside = ["nsenter", f"--net={namespace}"] if namespace is not None else []
    try:
        done = subprocess.run(
            [*inside, *command],
            input=script,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise NetworkUnavailable(
            f"{error.filename} is missing: install the packages nftables, iproute2 and util-linux."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NetworkUnavailable(f"{command[0]} did not end within {_TIMEOUT_SECONDS:g} s.") from error
    if done.returncode and done.stderr.startswith("nsenter:"):
        raise NetworkUnavailable(
            f"The gateway cannot enter a session's network namespace ({stderr_of(done)}): it needs "
            "CAP_SYS_ADMIN, mounts that propagate (`mount --make-rshared /`, as systemd does at boot) and, "
            "in a container, the mount of /run/docker/netns that docker/compose.yaml has."
        )
    return done


def stderr_of(done: subprocess.CompletedProcess[str]) -> str:
    """The standard error as one line of at most 300 characters."""
    return " ".join(done.stderr.split())[:300]


def _load(script: str, namespace: str | None = None) -> None:
    done = run(["nft", "--file", "-"], script, namespace)
    if done.returncode:
        raise NetworkUnavailable(f"nft cannot set the rules of the sessions' network: {stderr_of(done)}")


def _list(family: str, name: str, namespace: str | None) -> str:
    """The table as nft prints it; empty if it does not exist. One call of nft 1.0.6 lists one family."""
    done = run(["nft", "--stateless", "list", "table", family, name], namespace=namespace)
    if done.returncode and _MISSING not in done.stderr:
        raise NetworkUnavailable(f"nft cannot list the rules of the sessions' network: {stderr_of(done)}")
    return done.stdout
