"""A time limit for calls to the driver, which may hang."""

import builtins
from functools import partial

from gateway.domain.mig import Gpu, Instance, Placement
from gateway.errors import DriverUnavailable
from gateway.repositories import host_parts
from gateway.repositories.time_limit import TimeLimit

SECONDS = 30.0
_AT_ONCE = 32


class TimeLimitedGpus:
    """Calls `gpus`, and raises `DriverUnavailable` after `seconds`.

    NVML has no time limits. A call that is late still holds the lock of its GPU, and the next call for this
    GPU waits for that lock. A destroy therefore finds the instance of a create that succeeded late.
    """

    def __init__(self, gpus: host_parts.Gpus, seconds: float = SECONDS) -> None:
        self._gpus = gpus
        self._in_time = TimeLimit(
            "driver",
            seconds,
            _AT_ONCE,
            lambda: DriverUnavailable(
                f"The NVIDIA driver did not answer within {seconds:g} s; see whether nvidia-smi does, and "
                "dmesg."
            ),
            lambda: DriverUnavailable(
                f"{_AT_ONCE} calls to the NVIDIA driver have not returned; see dmesg, and reboot the host if "
                "nvidia-smi hangs too."
            ),
        )

    def list(self) -> builtins.list[Gpu]:
        return self._in_time(self._gpus.list)

    def create(self, gpu_uuid: str, profile_name: str, placement: Placement) -> Instance:
        return self._in_time(partial(self._gpus.create, gpu_uuid, profile_name, placement))

    def destroy(
        self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None = None
    ) -> None:
        self._in_time(partial(self._gpus.destroy, gpu_uuid, profile_name, placement, mig_uuid))

    def processes(self, mig_uuid: str) -> int:
        return self._in_time(partial(self._gpus.processes, mig_uuid))

    def busy(self, mig_uuid: str) -> float | None:
        return self._in_time(partial(self._gpus.busy, mig_uuid))

    def tidy(self) -> None:
        self._in_time(self._gpus.tidy)

    def check(self) -> None:
        self._in_time(self._gpus.check)
