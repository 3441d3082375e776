"""The server that the gateway runs on: its Docker, GPUs, network and directories, as the port `Host`.

Services start, stop and observe a session as one unit, and do not use the parts directly.
"""

import ipaddress
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import TypeVar

from gateway.domain.activity import GpuUse
from gateway.domain.board import Board
from gateway.domain.leased import SessionColumns
from gateway.domain.mig import Gpu, MigPolicy, host_share
from gateway.domain.models import Session
from gateway.domain.observation import Observation, Place, ServerView
from gateway.domain.plan import Allocation, Endings, SessionPlan, Started
from gateway.domain.planner import LocalPlanner
from gateway.domain.recovery import Survivor
from gateway.domain.uids import UidRange
from gateway.errors import AddressTaken, ContainerFailed, GatewayError, NetworkOpen, PlacementTaken
from gateway.failpoints import reach
from gateway.repositories import accounts
from gateway.repositories.host_parts import (
    Containers,
    ContainerSpec,
    Egress,
    Gpus,
    Meter,
    Network,
    SessionFiles,
    Workspaces,
)
from gateway.repositories.scripts import RunsScripts, Script

T = TypeVar("T")

_UIDS_AT_ONCE = 32  # more than the number of new users whose first sessions open at the same time


@dataclass(frozen=True)
class LocalHost(RunsScripts):
    """`subnet` has the sessions' addresses, `uid_range` the users' uids. `mig_policy` decides whether the
    gateway or an administrator creates GPU instances."""

    gpus: Gpus
    containers: Containers
    network: Network
    egress: Egress
    workspaces: Workspaces
    files: SessionFiles
    subnet: ipaddress.IPv4Network
    mig_policy: MigPolicy
    uid_range: UidRange = UidRange()
    meter: Meter | None = None

    def list_gpus(self) -> list[Gpu]:
        return self.gpus.list()

    def cordon(self, gpus: Collection[str]) -> None:
        """The planner alone places sessions, and leaves out a GPU with a cordon."""

    def planner(self) -> LocalPlanner:
        """Check the daemon, the network and the state directory, and return a planner. This runs before a
        session is recorded."""
        self.files.check()
        self.containers.require_isolation()
        unavailable_addresses = self.network.ensure()
        return LocalPlanner(self.list_gpus(), self.mig_policy, self.subnet, unavailable_addresses)

    def pin_image(self, reference: str) -> str:
        return self.containers.image_id(reference)

    def line_planner(self) -> LocalPlanner:
        return LocalPlanner(self.list_gpus(), self.mig_policy, self.subnet)

    def start(self, plan: SessionPlan) -> Started:
        if plan.gpu is None or plan.allocation is None or plan.address is None:
            raise ValueError("this server starts only what its own planner planned")
        request = plan.request
        workspace = self.workspaces.ensure(request.user_id, request.uid)
        reach("after-workspace-make")
        gpu_uuid = self._borrow(plan.allocation) if plan.allocation.borrowed else self._make(plan.allocation)
        allocation = replace(plan.allocation, mig_uuid=gpu_uuid)
        files = self.files.write(request, plan.gpu, allocation)
        reach("after-session-files-write")
        container_id = self._run(
            ContainerSpec(request, allocation, gpu_uuid, plan.address, workspace, files, plan.host_share)
        )
        self.containers.wait_for_ssh(container_id, plan.address)
        self.containers.require_confined(container_id)
        self.containers.check_gpu(container_id, gpu_uuid)
        reach("after-sshd-answer", ContainerFailed)
        return Started(container_id, plan.address, allocation)

    def _run(self, spec: ContainerSpec) -> str:
        try:
            return self.containers.run(spec)
        except AddressTaken:
            self.network.avoid(spec.address)
            raise

    def stop(self, session_id: str, allocation: Allocation | None) -> None:
        """Remove the container, then the GPU instance: the driver reuses the ids of instances immediately.

        Without `allocation`, the labels of the container name it, as for a session without a row.
        """
        if allocation is None:
            allocation = self._labelled(session_id)
        self.containers.remove(session_id)
        reach("after-container-remove")
        if allocation is not None and not allocation.borrowed:
            self.gpus.destroy(allocation.gpu, allocation.profile, allocation.placement, allocation.mig_uuid)

    def forget(self, session_id: str) -> None:
        self.files.remove(session_id)
        reach("after-session-files-remove")

    def show(self, session_id: str, wanted: Callable[[], Board | None]) -> None:
        self.files.show(session_id, wanted)

    def differing(self, boards: Mapping[str, Board]) -> Collection[str]:
        return {id for id, expected in boards.items() if not self.files.shows(id, expected)}

    def look_inside(self, session: Session) -> str | None:
        """The driver says what becomes of its GPUs, and Docker's rights are compared."""
        return None

    def gpu_use(self, session: Session) -> GpuUse:
        if session.gpu_uuid is None:
            return GpuUse(None)
        processes = self.gpus.processes(session.gpu_uuid)
        return GpuUse(processes, self._busy(session.gpu_uuid) if processes else None)

    def _busy(self, mig_uuid: str) -> float | None:
        """By the driver, where it has a meter, else by dcgm-exporter."""
        busy = self.gpus.busy(mig_uuid)
        if busy is not None or self.meter is None:
            return busy
        found = (one for gpu in self.list_gpus() for one in gpu.instances if one.mig_uuid == mig_uuid)
        instance = next(found, None)
        return self.meter.busy(instance.gpu_uuid, instance.gi_id) if instance else None

    def was_used(self, session: Session) -> bool:
        if session.container_id is None:
            raise ContainerFailed("The session has no container yet.")
        return self.containers.was_used(session.container_id)

    def disconnect(self, session_id: str) -> None:
        self.containers.disconnect(session_id)

    def repair(self, session_id: str) -> None:
        self.containers.repair(session_id)

    def observe(self, sessions: Sequence[SessionColumns]) -> Observation:
        """Read the state of the server. The containers are listed before the time of Docker's last restart is
        read, so that the time includes a restart that happens in between."""
        unseen: dict[Place, str] = {}

        def read(place: Place, call: Callable[[], T]) -> T | None:
            try:
                return call()
            except GatewayError as error:
                unseen[place] = str(error)
            except OSError as error:
                unseen[place] = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            return None

        view = ServerView(
            containers=read(Place.DOCKER, self.containers.list),
            gpus=read(Place.DRIVER, self.gpus.list) or (),
            files=read(Place.FILES, self.files.list),
            up_since=read(Place.DOCKER, self.containers.up_since),
            open_network=self._open_network(),
            unseen=unseen,
        )
        return view.observe(sessions)

    def survivors(self, besides: str | None = None) -> Sequence[Survivor]:
        """The session files have the current end of each lease; the labels have only the first end."""
        found = self.containers.survivors()
        found = [each for each in found if besides is None or each.deployment != besides]
        return [replace(survivor, expires_at=self._lease_end(survivor)) for survivor in found]

    def workspace_owners(self) -> Mapping[str, int]:
        return self.workspaces.owners()

    def free_uids(self, user_id: str, assigned: Collection[int]) -> Sequence[int]:
        owners = self.workspaces.owners()
        foreign = {uid for name, uid in owners.items() if name != user_id}
        free = (
            uid
            for uid in self.uid_range.unassigned(assigned)
            if uid not in foreign and accounts.name_of(uid) is None
        )
        own = owners.get(user_id)
        return [*([] if own is None else [own]), *islice(free, _UIDS_AT_ONCE)]

    def account_of(self, uid: int) -> str | None:
        return accounts.name_of(uid)

    def _open_network(self) -> str | None:
        try:
            self.network.check()
        except NetworkOpen as error:
            return str(error)
        except GatewayError:  # the check was not possible; `ensure` and `checks` report that
            pass
        return None

    def endings(self) -> Endings:
        return self.containers.endings()

    def claim(self, session_id: str) -> AbstractContextManager[None]:
        return self.files.claim(session_id)

    def is_claimed(self, session_id: str) -> bool | None:
        return self.files.is_claimed(session_id)

    def ensure(self) -> None:
        with ExitStack() as every:  # each callback is called, even if another one fails
            every.callback(self.gpus.tidy)
            every.callback(self.files.hang_doors)
            every.callback(self.egress.ensure)
            every.callback(self.network.ensure)

    def checks(self) -> Mapping[str, Callable[[], str]]:
        return {
            "docker": self.containers.check,
            "image": _ok(self.containers.check_image),
            "network": _ok(self.network.check),
            "egress": self.egress.describe,
            "gpus": self._describe_gpus,
            "limits": self._describe_limits,
            "session-files": _ok(self.files.check),
            "workspace-root": self._describe_workspace_root,
        }

    def examinations(self) -> Mapping[str, Callable[[], str]]:
        return {}

    def has_quotas(self) -> bool:
        return self.workspaces.has_quotas()

    def workspace_used(self, user_id: str) -> int:
        return self.workspaces.used(user_id)

    def _describe_workspace_root(self) -> str:
        weaknesses = self.workspaces.check()
        return f"ok: {'; '.join(weaknesses)}" if weaknesses else "ok"

    def _describe_gpus(self) -> str:
        self.gpus.check()
        found = self.list_gpus()
        faults = [f"GPU {gpu.index} {gpu.fault}" for gpu in found if gpu.fault]
        simulated = ", simulated" if any(gpu.simulated for gpu in found) else ""
        return "; ".join([f"ok: {len(found)} GPUs{simulated}", *faults])

    def _describe_limits(self) -> str:
        """What a session of each profile may use."""
        describe = self.containers.describe_limits
        try:
            gpus = self.list_gpus()
        except GatewayError:  # the check of the GPUs reports it
            return "ok: unknown while the driver does not answer"
        shares = sorted(
            (host_share(gpu, profile.placements[0], gpus), profile.name)
            for gpu in gpus
            for profile in gpu.profiles
            if profile.placements
        )
        limits = {name: describe(share) for share, name in shares}
        if len(set(limits.values())) <= 1:
            return f"ok: {next(iter(limits.values()), describe(0.0))} for each session"
        return "ok: " + "; ".join(f"{name} {limit}" for name, limit in limits.items())

    def _inside(self, session: Session, script: Script, *arguments: str) -> str:
        if session.container_id is None:
            raise ContainerFailed("The session has no container yet.")
        return script.result(self.containers.run_inside(session.container_id, script, *arguments))

    def _lease_end(self, survivor: Survivor) -> datetime:
        try:
            return self.files.lease_end(survivor.session_id) or survivor.expires_at
        except GatewayError:
            return survivor.expires_at

    def _labelled(self, session_id: str) -> Allocation | None:
        found = (each for each in self.containers.survivors() if each.session_id == session_id)
        return next((each.allocation for each in found), None)

    def _make(self, allocation: Allocation) -> str:
        return self.gpus.create(allocation.gpu, allocation.profile, allocation.placement).mig_uuid or ""

    def _borrow(self, allocation: Allocation) -> str:
        """Re-read the GPUs: an administrator may have destroyed the chosen instance."""
        for instance in [instance for gpu in self.list_gpus() for instance in gpu.instances]:
            same = (instance.gpu_uuid, instance.profile, instance.placement)
            if same == (allocation.gpu, allocation.profile, allocation.placement) and instance.mig_uuid:
                return instance.mig_uuid
        raise PlacementTaken(f"The {allocation.profile} that this session was to borrow is gone; try again.")


def _ok(check: Callable[[], None]) -> Callable[[], str]:
    def run() -> str:
        check()
        return "ok"

    return run
