"""Reads the GPUs and the parts of /readyz for the metrics, so that no scrape calls the driver."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.domain import metrics
from gateway.domain.audit import Action
from gateway.domain.availability import Availability
from gateway.domain.clock import Clock
from gateway.domain.models import Event
from gateway.errors import GatewayError
from gateway.services.gpus import GpuInventory
from gateway.services.ports import Check, Database, Rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gauges:
    """The leader measures, and every process serves the last reading from the database."""

    database: Database
    gpus: GpuInventory
    checks: Mapping[str, Check]
    clock: Clock

    def measure(self) -> None:
        """Read everything once and publish it. Raises `DatabaseUnavailable`, `DiskFull`."""
        parts = {name: _is_ready(check) for name, check in self.checks.items()}
        reading = metrics.reading(self._availability(), parts)
        with self.database.read() as rows:
            last = rows.last_reading()
        with self.database.begin() as rows:
            self._record_faults(rows, (last[0].faults if last else None) or {}, reading.faults)
            if reading.faults is None and last:  # unknown is not recovered
                reading = replace(reading, faults=last[0].faults)
            rows.publish_reading(reading, self.clock().wall)

    def _record_faults(self, rows: Rows, before: Mapping[str, str], now: Mapping[str, str] | None) -> None:
        if now is None:
            return
        at = self.clock().wall
        for uuid in now.keys() - before.keys():
            rows.record(Event.of(at, Action.GPU_UNHEALTHY, f"{now[uuid]} ({uuid})"))
        for uuid in before.keys() - now.keys():
            rows.record(Event.of(at, Action.GPU_RECOVERED, f"{before[uuid]} ({uuid})"))

    def _availability(self) -> Availability | None:
        try:
            return self.gpus.availability()
        except GatewayError as error:
            log.warning("the GPUs cannot be read for the metrics", extra={"error": str(error)})
            return None


def _is_ready(check: Check) -> bool:
    try:
        check()
    except GatewayError:
        return False
    return True
