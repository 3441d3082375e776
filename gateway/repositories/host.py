"""One GPU server, behind few verbs: a session is started, stopped and observed as one thing.

The use cases know nothing of Docker or NVML; they ask a `Host`. This one composes the repositories
of the machine it runs on. A cluster's scheduler, which places slice and container as one, would
stand in its place with the same verbs.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from gateway.domain.mig import Gpu, Instance, Placement
from gateway.domain.plan import Allocation, Container, Endings, SessionPlan, Started
from gateway.errors import ContainerFailed, PlacementTaken
from gateway.failpoints import reach


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What the containers repository needs to run one session's container."""

    session_id: str
    user_id: str
    uid: int
    allocation: Allocation
    gpu_uuid: str
    address: str
    workspace: Path
    files: Path  # of `SessionFiles`
    expires_at: datetime


class Gpus(Protocol):
    """GPUs and their instances; raises `DriverUnavailable`, `GpuLost`, `SliceBusy`, `PlacementTaken`."""

    def list(self) -> list[Gpu]: ...
    def create(self, gpu_uuid: str, profile_name: str, placement: Placement) -> Instance: ...
    def destroy(
        self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None = None
    ) -> None: ...
    def check(self) -> None: ...


class Containers(Protocol):
    """Session containers; raises `DockerUnavailable`, `ImageMissing`, `ContainerFailed`."""

    def run(self, spec: ContainerSpec) -> str: ...
    def remove(self, session_id: str) -> None: ...
    def list(self) -> Sequence[Container]: ...
    def wait_for_ssh(self, container_id: str, address: str) -> None: ...
    def check_gpu(self, container_id: str, gpu_uuid: str) -> None: ...
    def disconnect(self, session_id: str) -> None: ...
    def up_since(self) -> datetime: ...
    def endings(self) -> Endings: ...
    def check(self) -> None: ...
    def check_image(self) -> None: ...


class Network(Protocol):
    """The sessions' network and the rules around it; raises `NetworkUnavailable`, `DockerUnavailable`."""

    def ensure(self) -> None: ...
    def check(self) -> None: ...


class Egress(Protocol):
    """What sessions reach outside; raises `NetworkUnavailable`, `ImageMissing`, `DockerUnavailable`."""

    def ensure(self) -> None: ...
    def describe(self) -> str: ...


class Workspaces(Protocol):
    """Users' persistent directories; raises `WorkspaceRefused`, `DiskFull`."""

    def ensure(self, user_id: str, uid: int) -> Path: ...
    def has_quotas(self) -> bool: ...
    def used(self, user_id: str) -> int: ...


class SessionFiles(Protocol):
    """The files that a session's sshd reads, one directory a session; raises `DiskFull`."""

    def claim(self, session_id: str) -> AbstractContextManager[None]: ...
    def is_claimed(self, session_id: str) -> bool | None: ...
    def write(self, plan: SessionPlan, gpu: Gpu, gpu_uuid: str) -> Path: ...
    def tell(self, session_id: str, text: str) -> None: ...
    def remove(self, session_id: str) -> None: ...
    def list(self) -> Mapping[str, bool]: ...


@dataclass(frozen=True)
class LocalHost:
    """The server that the gateway runs on. "Gone already" is success wherever something is removed."""

    gpus: Gpus
    containers: Containers
    network: Network
    egress: Egress
    workspaces: Workspaces
    files: SessionFiles

    def list_gpus(self) -> list[Gpu]:
        return self.gpus.list()

    def start(self, plan: SessionPlan, gpu: Gpu) -> Started:
        """Make everything that `plan` names and return when the session's sshd has spoken and the
        slice is seen from inside.

        Undoes nothing: whoever asked for it has the intent on record and calls `stop`.
        """
        workspace = self.workspaces.ensure(plan.user_id, plan.uid)
        reach("after-workspace-make")
        gpu_uuid = self._borrow(plan.allocation) if plan.allocation.borrowed else self._make(plan.allocation)
        files = self.files.write(plan, gpu, gpu_uuid)
        reach("after-session-files-write")
        container_id = self.containers.run(
            ContainerSpec(
                session_id=plan.session_id,
                user_id=plan.user_id,
                uid=plan.uid,
                allocation=plan.allocation,
                gpu_uuid=gpu_uuid,
                address=plan.address,
                workspace=workspace,
                files=files,
                expires_at=plan.expires_at,
            )
        )
        self.containers.wait_for_ssh(container_id, plan.address)
        self.containers.check_gpu(container_id, gpu_uuid)
        reach("after-sshd-answer", ContainerFailed)
        return Started(container_id, gpu_uuid)

    def stop(self, session_id: str, allocation: Allocation | None) -> None:
        """Take back the container, then its slice: ids of instances are used again at once, so the
        container must be gone first."""
        self.containers.remove(session_id)
        reach("after-container-remove")
        if allocation is not None and not allocation.borrowed:
            self.gpus.destroy(allocation.gpu, allocation.profile, allocation.placement, allocation.mig_uuid)

    def forget(self, session_id: str) -> None:
        """Take back the session's files, last of all: while its row is there, its claim can be judged."""
        self.files.remove(session_id)
        reach("after-session-files-remove")

    def tell(self, session_id: str, text: str) -> None:
        """Tell the session's user at each login from now on; with an empty text nothing more."""
        self.files.tell(session_id, text)

    def disconnect(self, session_id: str) -> None:
        """End every SSH connection into the session; what its user started there goes on."""
        self.containers.disconnect(session_id)

    def observe(self) -> Sequence[Container]:
        """The session containers that exist, whether anybody knows of their sessions or not."""
        return self.containers.list()

    def up_since(self) -> datetime:
        """No container that stood before has been kept; to be asked after `observe`, or one that ends with
        a restart in between is judged by the time before it."""
        return self.containers.up_since()

    def endings(self) -> Endings:
        """Follow the containers of sessions from now on."""
        return self.containers.endings()

    def leftovers(self) -> Mapping[str, bool]:
        """The ids of sessions that have files here, and whether somebody is opening them."""
        return self.files.list()

    def claim(self, session_id: str) -> AbstractContextManager[None]:
        """While a session is opened or an orphan is removed: nobody else does, and if this process dies,
        everybody knows."""
        return self.files.claim(session_id)

    def is_claimed(self, session_id: str) -> bool | None:
        """Whether somebody holds the claim; None when it was not made, or not on this host."""
        return self.files.is_claimed(session_id)

    def ensure(self) -> None:
        """Make the network, its rules and the egress proxy again, whichever is missing."""
        try:
            self.network.ensure()
        finally:
            self.egress.ensure()

    def checks(self) -> Mapping[str, Callable[[], str]]:
        return {
            "docker": _ok(self.containers.check),
            "image": _ok(self.containers.check_image),
            "network": _ok(self.network.check),
            "egress": self.egress.describe,
            "gpus": self._describe_gpus,
        }

    def has_quotas(self) -> bool:
        return self.workspaces.has_quotas()

    def workspace_used(self, user_id: str) -> int:
        return self.workspaces.used(user_id)

    def _describe_gpus(self) -> str:
        self.gpus.check()
        found = self.list_gpus()
        faults = [f"GPU {gpu.index} {gpu.fault}" for gpu in found if gpu.fault]
        simulated = ", simulated" if any(gpu.simulated for gpu in found) else ""
        return "; ".join([f"ok: {len(found)} GPUs{simulated}", *faults])

    def _make(self, allocation: Allocation) -> str:
        return self.gpus.create(allocation.gpu, allocation.profile, allocation.placement).mig_uuid or ""

    def _borrow(self, allocation: Allocation) -> str:
        """Look once more: whoever partitioned this host may have changed his mind."""
        for instance in [instance for gpu in self.list_gpus() for instance in gpu.instances]:
            same = (instance.gpu_uuid, instance.profile, instance.placement)
            if same == (allocation.gpu, allocation.profile, allocation.placement) and instance.mig_uuid:
                return instance.mig_uuid
        raise PlacementTaken(f"The {allocation.profile} that was to be leased is gone; try again.")


def _ok(check: Callable[[], None]) -> Callable[[], str]:
    def run() -> str:
        check()
        return "ok"

    return run
