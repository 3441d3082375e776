"""The whole examination of the gateway on this host."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway import simulation
from gateway.app import parts_of_this_machine
from gateway.doctor.checks import Finding, examine
from gateway.doctor.places import Comparison, Places
from gateway.domain.mig import MigPolicy
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.sql.database import SqlDatabase, make_read_only_engine
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Diagnosis:
    findings: Sequence[Finding]
    comparison: Comparison

    @property
    def healthy(self) -> bool:
        """Nothing differs, nothing is wrong, and everything could be looked at."""
        wrong = self.comparison.differences or self.comparison.unseen
        return not wrong and all(finding.ok for finding in self.findings)


def diagnose(settings: Settings) -> Diagnosis:
    """Of the gateway on this host that has these settings."""
    if settings.simulate_gpus:
        simulation.attach(settings.state_dir / "simulated-gpus.json")
    database = SqlDatabase(settings.db, make_read_only_engine)
    parts = replace(parts_of_this_machine(settings), database=database)
    places = Places(
        database, parts.host, Pipes(settings.piper_config), MigPolicy(settings.mig_policy), parts.clock
    )
    return Diagnosis(examine(settings, parts), places.compare())
