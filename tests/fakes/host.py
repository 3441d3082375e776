"""A whole host in memory, with the verbs of `services.ports.Host`: sessions are entries in a dictionary.

It knows no container, driver or directory, and its own scheduler chooses the slice and the address, as a
cluster's does.
"""

import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

from gateway.domain.activity import GpuUse, Probe
from gateway.domain.board import Board
from gateway.domain.clock import Moment
from gateway.domain.forecast import Line
from gateway.domain.leased import SessionColumns
from gateway.domain.live_session import SessionSlice
from gateway.domain.mig import Gpu
from gateway.domain.models import Cordon, Session
from gateway.domain.observation import Observation, Place, SessionState, State
from gateway.domain.placement import Occupied
from gateway.domain.plan import Allocation, SessionPlan, SessionRequest, Started
from gateway.domain.recovery import Survivor
from gateway.domain.states import Reason
from gateway.domain.uids import UidRange
from gateway.domain.waiting import Plan, Waiter
from gateway.errors import GatewayError, NoCapacity, UnknownProfile
from tests.fakes.gpus import FakeGpus, free_placements


@dataclass
class _Run:
    """One session that the host runs; `ended` is why it ended."""

    request: SessionRequest
    started: Started
    ended: Reason | None = None
    board: Board | None = None
    terminals: list[str] = field(default_factory=list)
    hooks: list[int] = field(default_factory=list)
    has_hook: bool = False
    signals: int = 0
    connections: int = 0


class MemoryEndings:
    def __init__(self) -> None:
        self.ids: SimpleQueue[str | None] = SimpleQueue()

    def __iter__(self) -> Iterator[str]:
        while (session_id := self.ids.get()) is not None:
            yield session_id

    def close(self) -> None:
        self.ids.put(None)


class MemoryHost:
    """`failure`, while set, is raised by every verb that asks the host for something."""

    is_advice = False

    def __init__(self, kind: str = "A100-40GB") -> None:
        self._gpus = FakeGpus([kind])
        self._runs: dict[str, _Run] = {}
        self._claims: dict[str, bool] = {}
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._followers: list[MemoryEndings] = []
        self.failure: GatewayError | None = None
        self.deployment: str | None = None

    def list_gpus(self) -> list[Gpu]:
        self._ask()
        return self._gpus.list()

    def cordon(self, gpus: Collection[str]) -> None:
        self._ask()

    def planner(self) -> "MemoryHost":
        self._ask()
        return self

    def plan(
        self,
        request: SessionRequest,
        live: Sequence[SessionSlice],
        cordons: Mapping[str, Cordon],
        demand: Mapping[str, float],
        refused: Sequence[Allocation] = (),
        line: Line | None = None,
    ) -> SessionPlan:
        """Only the profile is decided here; the scheduler does the rest at the start."""
        return SessionPlan(request, self.profile(request.mig_profile, cordons))

    def line_planner(self) -> "MemoryHost":
        return self.planner()

    def profile(self, name: str | None, cordons: Mapping[str, Cordon]) -> str:
        [gpu] = self._gpus.list()
        offered = sorted(gpu.profiles, key=lambda profile: profile.memory_mib)
        if name is not None and gpu.profile(name) is None:
            raise UnknownProfile(name, [profile.name for profile in offered])
        return name or offered[0].name

    def plan_line(
        self,
        waiters: Sequence[Waiter],
        live: Sequence[SessionSlice],
        cordons: Mapping[str, Cordon],
        demand: Mapping[str, float],
        now: Moment,
        overtaking: str | None = None,
        ending: str | None = None,
    ) -> Plan:
        """No promises: the first request tries its turn."""
        first = min(waiters, key=lambda waiter: waiter.order, default=None)
        return Plan({}, (first.id,) if first else ())

    def was_used(self, session: Session) -> bool:
        self._ask()
        return self._runs[session.id].connections > 0

    def start(self, plan: SessionPlan) -> Started:
        self._ask()
        with self._lock:
            [gpu] = self._gpus.list()
            profile = gpu.profile(plan.mig_profile)
            assert profile is not None
            occupied = [Occupied(gpu.uuid, one.profile, one.placement) for one in gpu.instances]
            places = free_placements(gpu, profile, occupied)
            if not places:
                raise NoCapacity(f"No GPU has room for a {plan.mig_profile} now.")
            made = self._gpus.create(gpu.uuid, plan.mig_profile, places[-1])
            number = next(self._numbers)
            allocation = Allocation(gpu.uuid, plan.mig_profile, places[-1], mig_uuid=made.mig_uuid)
            started = Started(f"pod-{number}", f"10.9.0.{number}", allocation)
            self._runs[plan.request.session_id] = _Run(plan.request, started)
            return started

    def stop(self, session_id: str, allocation: Allocation | None) -> None:
        self._ask()
        with self._lock:
            run = self._runs.pop(session_id, None)
            if run:
                slice_ = run.started.allocation
                self._gpus.destroy(slice_.gpu, slice_.profile, slice_.placement)

    def forget(self, session_id: str) -> None:
        self._claims.pop(session_id, None)

    def show(self, session_id: str, wanted: Callable[[], Board | None]) -> None:
        self._ask()
        with self._lock:
            run = self._runs.get(session_id)
            if run and (board := wanted()):
                run.board = board

    def differing(self, boards: Mapping[str, Board]) -> Collection[str]:
        runs = self._runs
        return {id for id, expected in boards.items() if id not in runs or runs[id].board != expected}

    def tell(self, session: Session, text: str) -> int:
        self._ask()
        run = self._runs[session.id]
        run.terminals.append(text)
        return run.connections

    def run_hook(self, session: Session, seconds_left: int) -> bool:
        self._ask()
        run = self._runs[session.id]
        if run.has_hook:
            run.hooks.append(seconds_left)
        return run.has_hook

    def signal(self, session: Session) -> int:
        self._ask()
        self._runs[session.id].signals += 1
        return self._runs[session.id].connections

    def activity(self, session: Session) -> Probe | None:
        self._ask()
        return Probe(self._runs[session.id].connections, None, 0)

    def look_inside(self, session: Session) -> str | None:
        self._ask()
        return None

    def gpu_use(self, session: Session) -> GpuUse:
        self._ask()
        return GpuUse(0)

    def disconnect(self, session_id: str) -> None:
        self._ask()
        if run := self._runs.get(session_id):
            run.connections = 0

    def repair(self, session_id: str) -> None:
        self._ask()

    def observe(self, sessions: Sequence[SessionColumns]) -> Observation:
        if self.failure:
            unknown = {
                session.id: SessionState(State.UNKNOWN, problem=session.problem) for session in sessions
            }
            return Observation(unknown, unseen={Place.DOCKER: str(self.failure)})
        held = {id: [Place.DOCKER] for id in self._runs}
        return Observation(
            {session.id: self._state(session) for session in sessions}, held, dict(self._claims)
        )

    def survivors(self, besides: str | None = None) -> Sequence[Survivor]:
        self._ask()
        return [
            Survivor(
                session_id=id,
                user_id=run.request.user_id,
                container_id=run.started.container_id,
                deployment=self.deployment,
                created_at=run.request.created_at,
                expires_at=run.request.expires_at,
                uid=run.request.uid,
                address=run.started.address,
                allocation=run.started.allocation,
                is_running=run.ended is None,
            )
            for id, run in self._runs.items()
            if besides is None or self.deployment != besides
        ]

    def pin_image(self, reference: str) -> str:
        self._ask()
        return f"{reference}@sha256:1"

    def free_uids(self, user_id: str, assigned: Collection[int]) -> Sequence[int]:
        return list(itertools.islice(UidRange().unassigned(assigned), 8))

    def account_of(self, uid: int) -> str | None:
        return None

    def workspace_owners(self) -> Mapping[str, int]:
        return {run.request.user_id: run.request.uid for run in self._runs.values()}

    def endings(self) -> MemoryEndings:
        self._ask()
        self._followers.append(MemoryEndings())
        return self._followers[-1]

    @contextmanager
    def claim(self, session_id: str) -> Iterator[None]:
        self._claims[session_id] = True
        try:
            yield
        finally:
            if session_id in self._claims:
                self._claims[session_id] = False

    def is_claimed(self, session_id: str) -> bool | None:
        return self._claims.get(session_id)

    def ensure(self) -> None:
        self._ask()

    def checks(self) -> Mapping[str, Callable[[], str]]:
        return {"scheduler": self._describe}

    def examinations(self) -> Mapping[str, Callable[[], str]]:
        return {}

    def has_quotas(self) -> bool:
        return True

    def workspace_used(self, user_id: str) -> int:
        self._ask()
        return 0

    # What happens to a host

    def end(self, session_id: str, reason: Reason) -> None:
        """The session ends by itself, for a reason that the host knows."""
        self._runs[session_id].ended = reason
        for follower in self._followers:
            follower.ids.put(session_id)

    def lose(self, session_id: str) -> None:
        """Somebody removes the session behind the gateway's back."""
        run = self._runs.pop(session_id)
        slice_ = run.started.allocation
        self._gpus.destroy(slice_.gpu, slice_.profile, slice_.placement)
        for follower in self._followers:
            follower.ids.put(session_id)

    def connect(self, session_id: str) -> None:
        self._runs[session_id].connections += 1

    def connections(self, session_id: str) -> int:
        return self._runs[session_id].connections

    def board(self, session_id: str) -> Board | None:
        return self._runs[session_id].board

    def _state(self, session: SessionColumns) -> SessionState:
        run = self._runs.get(session.id)
        if run is None:
            return SessionState(State.GONE, Reason.FAILED)
        return SessionState(State.ENDED, run.ended) if run.ended else SessionState(State.RUNNING)

    def _describe(self) -> str:
        self._ask()
        return "ok"

    def _ask(self) -> None:
        if self.failure:
            raise self.failure
