"""What a session that does not wait gets: how many slices it can have now, and when if none fits. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from gateway.domain.forecast import Forecast, Line
from gateway.domain.live_session import LiveSession
from gateway.domain.occupancy import Occupancy
from gateway.domain.placement import Fit
from gateway.domain.reservation_book import Book
from gateway.domain.waiting import Reservation


@dataclass(frozen=True)
class Availability:
    """What the GPUs have for a new session that lives as long as `lease`: beside all leases, all promises to
    the requests in `line`, and all announced maintenance. `sessions` are all live sessions, by their ids.
    `demand` is as in `line_plan.plan`."""

    occupancy: Occupancy
    sessions: Mapping[str, LiveSession]
    line: Line
    lease: timedelta
    demand: Mapping[str, float]

    def available(self, profile: str) -> int:
        """Return how many sessions of the profile can begin now, if no other profile is requested."""
        if self._is_promised:
            return self._book.count_now(profile, self.lease)
        return self.occupancy.available(profile)

    def fit(self, profile: str) -> Fit | None:
        """Return where a session of the profile can begin now or else first, and which sessions must end
        before; None if that is unknown."""
        if not self._is_promised:
            return self.occupancy.fit(profile, self.line.now.wall)
        first = self._book.earliest(profile, self.lease)
        return self._after_leases(first) if first else None

    def promised(self, gpu: str) -> Sequence[Reservation]:
        """Return what was promised of the GPU, earliest first."""
        reservations = [each.reservation for each in self.line.waiters if each.reservation]
        return sorted((each for each in reservations if each.gpu == gpu), key=lambda each: each.start)

    @property
    def _is_promised(self) -> bool:
        return bool(self.line.waiters or self.occupancy.scheduled)

    @cached_property
    def _book(self) -> Book:
        """What has become free goes to the line first."""
        forecast = Forecast(self.occupancy, self.line.now)
        return forecast.book(self.line.planned(forecast.plan(self.line.waiters, self.demand)))

    def _after_leases(self, first: Reservation) -> Fit:
        """Those in the slice must end before. If nobody is in it, it is kept for others until then."""
        place = first.slice.placement
        ending = [
            piece
            for piece in self.occupancy.occupied
            if piece.session_id and piece.gpu_uuid == first.gpu and piece.placement.overlaps(place)
        ]
        return Fit(first.gpu, place, first.start, tuple(ending))
