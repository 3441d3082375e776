"""Reads the GPUs and the parts of /readyz for the metrics, so that no scrape calls the driver."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.domain import metrics
from gateway.domain.clock import Clock
from gateway.domain.occupancy import Occupancy
from gateway.errors import GatewayError
from gateway.services.gpus import GpuInventory
from gateway.services.ports import Check, Database

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
        reading = metrics.reading(self._occupancy(), parts)
        with self.database.begin() as rows:
            rows.publish_reading(reading, self.clock().wall)

    def _occupancy(self) -> Occupancy | None:
        try:
            return self.gpus.occupancy()
        except GatewayError as error:
            log.warning("the GPUs cannot be read for the metrics", extra={"error": str(error)})
            return None


def _is_ready(check: Check) -> bool:
    try:
        check()
    except GatewayError:
        return False
    return True
