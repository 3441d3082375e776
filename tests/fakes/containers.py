"""Containers without Docker: as stateful as the real ones, and able to fail."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from queue import SimpleQueue

from gateway.domain.containers import Deviation
from gateway.domain.observation import Container
from gateway.domain.recovery import Survivor
from gateway.domain.states import Reason
from gateway.errors import AddressTaken, ContainerFailed, ImageMissing
from gateway.repositories.host_parts import ContainerSpec
from gateway.repositories.scripts import Script


@dataclass
class FakeContainers:
    """`calls` are the verbs so far, in order. `deployment` names the database that sessions are opened with;
    `deployments` names it for single sessions."""

    calls: list[str] = field(default_factory=list)
    foreign_addresses: set[str] = field(default_factory=set)  # that other containers hold
    deployment: Callable[[], str | None] = lambda: None
    deployments: dict[str, str | None] = field(default_factory=dict)
    insides: "dict[str, FakeInside]" = field(default_factory=dict)
    image_ids: dict[str, str] = field(default_factory=lambda: {"gpu-workspace": "sha256:1"})  # by tag
    used: set[str] = field(default_factory=set)  # the containers that somebody has logged in to
    _running: dict[str, tuple[Container, ContainerSpec]] = field(default_factory=dict)
    _failures: dict[str, Exception] = field(default_factory=dict)
    _up_since: datetime = datetime(2020, 1, 1, tzinfo=UTC)
    _made: int = 0
    _followers: "list[FakeEndings]" = field(default_factory=list)

    def fail(self, verb: str, error: Exception | None) -> None:
        """From now on `verb` raises `error`; None: no more."""
        self._failures.pop(verb, None)
        if error is not None:
            self._failures[verb] = error

    def image_id(self, reference: str) -> str:
        self._did("image_id")
        if reference not in self.image_ids:
            raise ImageMissing(f"Docker has no image {reference!r}; build it with docker/build-images.")
        return self.image_ids[reference]

    def image_of(self, session_id: str) -> str:
        """The id of the image that the session's container was made from."""
        return self._running[session_id][1].request.image

    def run(self, spec: ContainerSpec) -> str:
        self._did("run")
        if spec.address in self.foreign_addresses:
            raise AddressTaken("Another container has the session's address.")
        for container, other in list(self._running.values()):
            if other.request.user_id == spec.request.user_id:
                del self._running[container.session_id]
        self._made += 1
        container = Container(f"{self._made:064x}", spec.request.session_id, ended=False)
        self._running[spec.request.session_id] = (container, spec)
        return container.id

    def describe_limits(self, host_share: float) -> str:
        return f"{host_share:.4f} of the host"

    def remove(self, session_id: str) -> None:
        self._did("remove")
        if self._running.pop(session_id, None):
            self._tell(session_id)

    def list(self) -> Sequence[Container]:
        self._did("list")
        return [
            replace(container, foreign=self._is_foreign(container.session_id))
            for container, _ in self._running.values()
        ]

    def _is_foreign(self, session_id: str) -> bool:
        return self.deployments.get(session_id, self.deployment()) != self.deployment()

    def survivors(self) -> Sequence[Survivor]:
        self._did("survivors")
        return [self._survivor(container, spec) for container, spec in self._running.values()]

    def _survivor(self, container: Container, spec: ContainerSpec) -> Survivor:
        request = spec.request
        return Survivor(
            session_id=request.session_id,
            user_id=request.user_id,
            container_id=container.id,
            deployment=self.deployments.get(request.session_id, self.deployment()),
            created_at=request.created_at,
            expires_at=request.expires_at,
            uid=request.uid,
            address=spec.address,
            allocation=spec.allocation,
            is_running=not container.ended,
        )

    def wait_for_ssh(self, container_id: str, address: str) -> None:
        self._did("wait_for_ssh")
        spec = next(
            (spec for container, spec in self._running.values() if container.id == container_id), None
        )
        if spec is None or spec.address != address:
            raise ContainerFailed("The session's container vanished while it started.")

    def check_gpu(self, container_id: str, gpu_uuid: str) -> None:
        self._did("check_gpu")
        if gpu_uuid not in {
            spec.gpu_uuid for container, spec in self._running.values() if container.id == container_id
        }:
            raise ContainerFailed("The session's container should see another GPU device.")

    def disconnect(self, session_id: str) -> None:
        self._did("disconnect")

    def repair(self, session_id: str) -> None:
        self._did("repair")
        container, spec = self._running[session_id]
        left = [deviation for deviation in container.deviations if not deviation.is_repairable]
        self._running[session_id] = (replace(container, deviations=left), spec)

    def deviate(self, session_id: str, *deviations: Deviation) -> None:
        """Somebody changes the container behind the gateway's back."""
        container, spec = self._running[session_id]
        self._running[session_id] = (replace(container, deviations=deviations), spec)

    def run_inside(self, container_id: str, script: Script, *arguments: str) -> str:
        """What the session's programs see; `insides` has it, by the user of the container."""
        self._did("run_inside")
        for container, spec in self._running.values():
            if container.id == container_id:
                return self.insides.setdefault(spec.request.user_id, FakeInside()).run(script, *arguments)
        raise ContainerFailed("Docker refused: no such container")

    def was_used(self, container_id: str) -> bool:
        self._did("was_used")
        return container_id in self.used

    def up_since(self) -> datetime:
        self._did("up_since")
        return self._up_since

    def endings(self) -> "FakeEndings":
        self._did("endings")
        self._followers.append(FakeEndings())
        return self._followers[-1]

    def break_connections(self) -> None:
        """Docker tells nobody anything any more who does not ask again."""
        while self._followers:
            self._followers.pop().close()

    def check(self) -> str:
        self._did("check")
        return "ok"

    def require_isolation(self) -> None:
        self._did("require_isolation")

    def require_confined(self, container_id: str) -> None:
        self._did("require_confined")

    def check_image(self) -> None:
        self._did("check_image")

    def spec(self, session_id: str) -> ContainerSpec:
        return self._running[session_id][1]

    def end(self, session_id: str, reason: Reason = Reason.USER_EXIT) -> None:
        """The container's main process ends, as when its user kills it."""
        container, spec = self._running[session_id]
        self._running[session_id] = (replace(container, ended=True, reason=reason), spec)
        self._tell(session_id)

    def restart(self, now: datetime) -> None:
        """Docker is restarted, and no container is kept running."""
        self._up_since = now
        for session_id in self._running:
            self.end(session_id)

    def lose(self, session_id: str) -> None:
        """Somebody removes the container behind the gateway's back."""
        del self._running[session_id]
        self._tell(session_id)

    def _tell(self, session_id: str) -> None:
        for follower in self._followers:
            follower.told.put(session_id)

    def _did(self, verb: str) -> None:
        self.calls.append(verb)
        if verb in self._failures:
            raise self._failures[verb]


@dataclass
class FakeInside:
    """The inside of a session with so many terminals, programs, and a hook of the user's own or none."""

    terminals: int = 0
    programs: int = 0
    has_hook: bool = False
    shown: list[str] = field(default_factory=list)
    hooks: dict[str, int] = field(default_factory=dict)  # by the lease, the seconds that were left
    signals: int = 0
    connections: int = 0
    first_port: int = 0xC000  # of the other ends of the connections
    terminal_seconds: int | None = None  # since one was used
    cpu_microseconds: int = 0

    def run(self, script: Script, *arguments: str) -> str:
        match script:
            case Script.TELL:
                self.shown.append(arguments[0])
                return f"{self.terminals}\n"
            case Script.HOOK:
                return self._hook(*arguments)
            case Script.ACTIVITY:
                terminal = "none" if self.terminal_seconds is None else self.terminal_seconds
                ports = range(self.first_port, self.first_port + self.connections)
                peers = ",".join(f"{port:04X}" for port in ports) or "-"
                return f"{self.connections} {terminal} {self.cpu_microseconds} {peers}\n"
            case Script.GPU:
                return "0\n"
            case Script.SIGNAL:
                self.signals += 1
                return f"{self.programs}\n"
            case Script.DISCONNECT:
                closed, self.connections = self.connections, 0
                return f"{closed}\n"

    def _hook(self, seconds_left: str, lease: str) -> str:
        if not self.has_hook:
            return "none\n"
        if lease in self.hooks:
            return "already\n"
        self.hooks[lease] = int(seconds_left)
        return "started\n"


class FakeEndings:
    def __init__(self) -> None:
        self.told: SimpleQueue[str | None] = SimpleQueue()

    def __iter__(self) -> Iterator[str]:
        while (session_id := self.told.get()) is not None:
            yield session_id

    def close(self) -> None:
        self.told.put(None)


@dataclass
class FakeEgress:
    failure: Exception | None = None

    def ensure(self) -> None:
        self.describe()

    def describe(self) -> str:
        if self.failure:
            raise self.failure
        return "ok: none"


@dataclass
class FakeNetwork:
    """`taken` are the addresses that foreign containers hold; `avoided` those that Docker refused."""

    failure: Exception | None = None
    taken: set[str] = field(default_factory=set)
    avoided: set[str] = field(default_factory=set)

    def ensure(self) -> set[str]:
        self.check()
        return self.taken | self.avoided

    def avoid(self, address: str) -> None:
        self.avoided.add(address)

    def check(self) -> None:
        if self.failure:
            raise self.failure
