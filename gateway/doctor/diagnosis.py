"""The whole diagnosis of the gateway on this host."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway import simulation
from gateway.app import parts_of_this_machine
from gateway.doctor.checks import CheckResult, examine
from gateway.doctor.places import Comparison, Places
from gateway.domain.mig import MigPolicy
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.sql.database import SqlDatabase, make_read_only_engine
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Diagnosis:
    checks: Sequence[CheckResult]
    comparison: Comparison

    @property
    def healthy(self) -> bool:
        """Whether all places could be read and agree, and all checks succeeded."""
        differs = self.comparison.differences or self.comparison.unseen
        return not differs and all(check.ok for check in self.checks)


def diagnose(settings: Settings) -> Diagnosis:
    """Diagnose the gateway on this host that has these settings."""
    if settings.simulate_gpus:
        simulation.attach(settings.state_dir / "simulated-gpus.json")
    database = SqlDatabase(settings.db, make_read_only_engine)
    parts = replace(parts_of_this_machine(settings), database=database)
    places = Places(
        database, parts.host, Pipes(settings.piper_config), MigPolicy(settings.mig_policy), parts.clock
    )
    return Diagnosis(examine(settings, parts), places.compare())
