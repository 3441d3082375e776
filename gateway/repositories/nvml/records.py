"""Records of the GPU instances that this gateway made, so that it never destroys another program's.

The driver does not report who made a GPU instance. A session's row has the placement before the instance
exists, and the UUID only once the session is active. If the gateway is killed in between, another program
may since have made the same profile at the same placement. One file for each placement decides. The gateway
writes it immediately before it calls the driver, again with the ids from the driver, and removes it when the
instance is gone. No GPU instance survives a boot, so the records of an earlier boot do not count.

    the record has              the gateway's instance is the one with this profile and placement that
    (no record)                 (none)
    only the placement          has no compute instance: the create was interrupted before
    the GPU instance id         has this id
    the id and the MIG UUID     has this UUID; or has this id, and no compute instance
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gateway.domain import clock
from gateway.domain.mig import Instance, Placement
from gateway.errors import DriverUnavailable
from gateway.repositories.storage import replacing


@dataclass(frozen=True, slots=True)
class Made:
    """A GPU instance that this gateway has begun to make. `late`: it belongs to no session, and may appear
    later, because the driver reported a time-out or because the GPU was lost."""

    profile: str
    start: int
    size: int
    gi_id: int | None = None
    mig_uuid: str | None = None
    late: bool = False

    @property
    def placement(self) -> Placement:
        return Placement(self.start, self.size)

    def is_at(self, instance: Instance) -> bool:
        return (instance.profile, instance.placement) == (self.profile, self.placement)

    def is_of(self, instance: Instance) -> bool:
        """Whether `instance` is the one that was made, by the table above."""
        if not self.is_at(instance):
            return False
        if instance.mig_uuid and self.mig_uuid:
            return instance.mig_uuid == self.mig_uuid
        if self.gi_id is not None:
            return instance.gi_id == self.gi_id
        return instance.mig_uuid is None and self.mig_uuid is None


def gpus_with_late_instances(directory: Path) -> set[str]:
    """The UUIDs of the GPUs on which an instance may appear after a time-out or after a loss of the GPU."""
    try:
        return {path.name.partition(".")[0] for path in directory.glob("*.late")}
    except OSError as error:
        raise DriverUnavailable(
            f"The gateway cannot read its records of GPU instances: {error.strerror}."
        ) from error


class Records:
    """The records of one GPU. The caller holds the GPU's lock."""

    def __init__(self, directory: Path, gpu_uuid: str) -> None:
        self._directory, self._gpu = directory, gpu_uuid

    def find(self, profile: str, placement: Placement, mig_uuid: str | None = None) -> Made | None:
        """The record of this profile and placement. With `mig_uuid`, the record of that instance."""
        wanted = Made(profile, placement.start, placement.size, late=True)
        made = self._read(self._path(placement.start))
        if made and (made.profile, made.placement) == (profile, placement):
            if mig_uuid in (None, made.mig_uuid):
                return made
            if made.mig_uuid is None:
                return replace(made, mig_uuid=mig_uuid)
        return replace(wanted, mig_uuid=mig_uuid, late=False) if mig_uuid else self._read(self._late(wanted))

    def late(self) -> Iterator[Made]:
        """The instances that may appear after a time-out or after a loss of the GPU."""
        for path in sorted(self._directory.glob(f"{self._gpu}.*.late")):
            if made := self._read(path):
                yield made
            else:
                self._remove(path)  # of an earlier boot

    def begin(self, profile: str, placement: Placement) -> None:
        self._write(Made(profile, placement.start, placement.size))

    def name(self, instance: Instance) -> None:
        """Record the ids of `instance`."""
        place = instance.placement
        self._write(Made(instance.profile, place.start, place.size, instance.gi_id, instance.mig_uuid))

    def give_up(self, made: Made) -> Made:
        """Record that the driver reported a time-out, and may finish later: at any time until the next boot,
        even if another instance is created at the same placement until then."""
        late = replace(made, late=True)
        self._write(late)
        self._remove(self._path(made.start))
        return late

    def lose(self, made: Made) -> None:
        """Record that `made` was not destroyed, because its GPU is lost. Ids are used again after a reset, so
        an instance without a UUID is known only while it has no compute instance."""
        self._write(replace(made, late=True, gi_id=made.gi_id if made.mig_uuid else None))
        self.forget(replace(made, late=False))

    def forget(self, made: Made) -> None:
        """Remove the record of an instance that is gone, and keep that of a newer one at its placement. After
        a time-out the record stays, because another create at the same placement may have timed out, too."""
        found = self._read(self._path(made.start))
        if made.late:
            if made.mig_uuid:
                self._remove(self._late(made))
            if made.mig_uuid and found and found.mig_uuid == made.mig_uuid:  # from the destroy
                self._remove(self._path(made.start))
            return
        if found is None or made.mig_uuid in (None, found.mig_uuid) or found.mig_uuid is None:
            self._remove(self._path(made.start))

    def _path(self, start: int) -> Path:
        return self._directory / f"{self._gpu}.{start}.json"

    def _late(self, made: Made) -> Path:
        uuid = f".{made.mig_uuid}" if made.mig_uuid else ""
        return self._directory / f"{self._gpu}.{made.start}.{made.profile}{uuid}.late"

    def _file(self, made: Made) -> Path:
        return self._late(made) if made.late else self._path(made.start)

    def _read(self, path: Path) -> Made | None:
        """Raises `DriverUnavailable` if the record exists, but the disk does not return it: its instance may
        be the gateway's."""
        try:
            with self._translated_errors():
                found = json.loads(path.read_bytes()) if path.exists() else {}
            return Made(**found["made"]) if found["boot"] == clock.read().boot else None
        except (ValueError, TypeError, KeyError):
            return None

    def _write(self, made: Made) -> None:
        record = json.dumps({"boot": clock.read().boot, "made": asdict(made)})
        with self._translated_errors(), replacing(self._file(made), 0o600) as file:
            file.write(record.encode())

    def _remove(self, path: Path) -> None:
        with self._translated_errors():
            path.unlink(missing_ok=True)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DriverUnavailable(
                f"The gateway cannot read or write its record of what it made on GPU {self._gpu}: "
                f"{error.strerror}; make its state directory writable."
            ) from error
