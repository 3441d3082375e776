"""DOCKER-USER, the iptables chain that Docker reserves for the administrator.

Docker's own rules drop traffic between the containers of the sessions' network. Only this chain can make an
exception, because Docker evaluates it first.
"""

import shutil

from gateway.errors import NetworkUnavailable
from gateway.repositories.docker.firewall import run, stderr_of

_PARENT = "DOCKER-USER"
# Exit codes of iptables. 1 to 3: there is no such rule or chain, or the kernel lacks this backend.
_DONE, _FAILED = 0, (1, 2, 3)
# Docker uses the backend that `iptables` was when dockerd started. Another backend does not show its chains.
_BACKENDS = ("iptables", "iptables-nft", "iptables-legacy")


class DockerUserChain:
    """A chain of the gateway, to which DOCKER-USER jumps for the packets that `matches` describes.

    Without DOCKER-USER (`dockerd --iptables=false`) Docker drops nothing, and no exception is needed.
    """

    def __init__(self, name: str, rules: tuple[tuple[str, ...], ...], matches: tuple[str, ...]) -> None:
        self.name = name
        self._rules = rules
        self._jump = _PARENT, *matches, "-j", name

    def is_loaded(self) -> bool:
        """Raises `NetworkUnavailable`."""
        backend = _dockers_backend()
        return backend is None or self._is_loaded(backend)

    def ensure(self) -> None:
        """Raises `NetworkUnavailable`."""
        backend = _dockers_backend()
        if backend is None or self._is_loaded(backend):
            return
        _succeeds(backend, "-N", self.name)
        _iptables(backend, "-F", self.name)
        for rule in self._rules:
            _iptables(backend, "-A", self.name, *rule)
        if not _succeeds(backend, "-C", *self._jump):
            _iptables(backend, "-I", _PARENT, "1", *self._jump[1:])

    def remove(self) -> None:
        """Raises `NetworkUnavailable`."""
        backend = _dockers_backend()
        if backend is not None:
            _succeeds(backend, "-D", *self._jump)
            _succeeds(backend, "-F", self.name)
            _succeeds(backend, "-X", self.name)

    def _is_loaded(self, backend: str) -> bool:
        return all(_succeeds(backend, "-C", self.name, *rule) for rule in self._rules) and _succeeds(
            backend, "-C", *self._jump
        )


def _dockers_backend() -> str | None:
    """The iptables in which Docker keeps its rules; None if it keeps none."""
    installed = filter(shutil.which, _BACKENDS)
    return next((backend for backend in installed if _succeeds(backend, "-S", _PARENT)), None)


def _succeeds(backend: str, *arguments: str) -> bool:
    done = run([backend, "-w", "5", *arguments])
    if done.returncode not in (_DONE, *_FAILED):
        raise NetworkUnavailable(f"{backend} cannot open the way to the egress proxy: {stderr_of(done)}")
    return done.returncode == _DONE


def _iptables(backend: str, *arguments: str) -> None:
    if not _succeeds(backend, *arguments):
        raise NetworkUnavailable(f"{backend} refused {' '.join(arguments)}.")
