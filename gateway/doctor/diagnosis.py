"""The whole diagnosis of the gateway on this host."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway import simulation
from gateway.app import parts_of, simulated_gpus_file
from gateway.doctor.checks import CheckResult, examine
from gateway.doctor.places import ON_A_CLUSTER, ON_A_SERVER, Comparison, Places
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
    """Diagnose the gateway that has these settings, on this host or on its cluster."""
    if settings.simulate_gpus:
        simulation.attach(simulated_gpus_file(settings))
    database = SqlDatabase(settings.db, make_read_only_engine)
    parts = replace(parts_of(settings), database=database)
    names = ON_A_CLUSTER if settings.is_cluster else ON_A_SERVER
    pipes = parts.pipes if settings.is_cluster else Pipes(settings.piper_config)
    places = Places(database, parts.host, pipes, MigPolicy(settings.mig_policy), parts.clock, names)
    return Diagnosis(examine(settings, parts), places.compare())
