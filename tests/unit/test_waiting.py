"""The waiting line: promises that only get earlier, and what breaks them."""

import cProfile
import pstats
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from gateway.domain.line_plan import plan, spots
from gateway.domain.mig import FreeCapacity, Gpu, MigPolicy, Placement
from gateway.domain.reservation_book import Book
from gateway.domain.timeline import OpenGpu, Slice
from gateway.domain.waiting import TURNOVER, Cause, Lease, Plan, Reservation, Waiter
from tests.bench.waiting import long_lines
from tests.fakes.gpus import FakeGpus

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)
PROFILES = ("1g.5gb", "1g.5gb+me", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb")


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def opened(*kinds: str, policy: MigPolicy = MigPolicy.DYNAMIC) -> list[OpenGpu]:
    return [OpenGpu(gpu, policy) for gpu in FakeGpus(kinds or ("A100-40GB",)).list()]


def lease(gpu: OpenGpu, profile: str, start: int, size: int, ends: float, session: str = "session") -> Lease:
    return Lease(session, gpu.gpu.uuid, Slice(profile, Placement(start, size)), NOW + minutes(ends))


def waiter(
    name: str, profile: str = "7g.40gb", lasts: float = 60, asked: float = 0, **more: object
) -> Waiter:
    until = NOW + timedelta(days=7)
    return replace(
        Waiter(name, profile, minutes(lasts), NOW + minutes(asked), until),
        **more,  # type: ignore[arg-type]
    )


def promised(line: Iterable[Waiter], made: Plan) -> list[Waiter]:
    return [replace(each, reservation=made.reservations.get(each.id)) for each in line]


def starts(made: Plan) -> dict[str, float]:
    """In minutes from now."""
    return {name: (each.start - NOW) / minutes(1) for name, each in made.reservations.items()}


def test_a_request_is_promised_the_end_of_the_lease_before_it_and_one_minute() -> None:
    [gpu] = opened()
    made = plan([gpu], [lease(gpu, "7g.40gb", 0, 8, ends=30)], [waiter("ann")], NOW)
    assert starts(made) == {"ann": 31}
    assert made.due == ()


def test_requests_of_one_kind_are_served_in_the_order_of_arrival() -> None:
    [gpu] = opened()
    line = [waiter("ben", asked=1), waiter("ann", asked=0), waiter("cem", asked=2)]
    assert starts(plan([gpu], [], line, NOW)) == {"ann": 0, "ben": 61, "cem": 122}


def test_a_small_request_fills_the_gap_before_a_large_one_only_if_it_ends_in_time() -> None:
    [gpu] = opened()
    leases = [lease(gpu, "4g.20gb", 0, 4, ends=90)]
    line = [
        waiter("large", "7g.40gb"),
        waiter("short", "3g.20gb", lasts=60, asked=1),
        waiter("long", "3g.20gb", lasts=240, asked=2),
    ]
    made = plan([gpu], leases, line, NOW)
    assert starts(made) == {"large": 91, "short": 0, "long": 152}
    assert made.due == ("short",)


def test_a_promise_gets_earlier_when_a_session_ends_early() -> None:
    [gpu] = opened()
    leases = [lease(gpu, "7g.40gb", 0, 8, ends=30)]
    line = promised([waiter("ann"), waiter("ben", asked=1)], plan([gpu], leases, [waiter("ann")], NOW))
    after = plan([gpu], [], line, NOW + minutes(5))
    assert starts(after) == {"ann": 5, "ben": 66}
    assert after.delays == ()


def test_a_request_that_nothing_can_be_promised_in_time_stays_without_a_reservation() -> None:
    [gpu] = opened()
    leases = [lease(gpu, "7g.40gb", 0, 8, ends=30)]
    impatient = waiter("ann", until=NOW + minutes(20))
    assert plan([gpu], leases, [impatient], NOW).reservations == {}
    assert starts(plan([gpu], [], [impatient], NOW)) == {"ann": 0}


def test_a_higher_priority_overtakes_and_the_delay_is_reported() -> None:
    [gpu] = opened()
    leases = [lease(gpu, "7g.40gb", 0, 8, ends=30)]
    line = [waiter("ann"), waiter("ben", asked=1)]
    line = promised(line, plan([gpu], leases, line, NOW))
    raised = [line[0], replace(line[1], priority=10)]
    made = plan([gpu], leases, raised, NOW, overtaking="ben")
    assert starts(made) == {"ben": 31, "ann": 92}
    [delay] = made.delays
    assert (delay.id, delay.cause, delay.before, delay.now) == (
        "ann",
        Cause.PRIORITY,
        NOW + minutes(31),
        NOW + minutes(92),
    )


def two_halves(*ends: float) -> tuple[list[OpenGpu], list[Lease]]:
    """GPUs whose halves are leased; the first lease of each ends then, the other one much later."""
    gpus, leases = opened(*["A100-40GB"] * len(ends)), []
    for index, (gpu, end) in enumerate(zip(gpus, ends, strict=True)):
        leases.append(lease(gpu, "3g.20gb", 4, 4, end, f"first {index}"))
        leases.append(lease(gpu, "4g.20gb", 0, 4, 1000, f"other {index}"))
    return gpus, leases


def test_equal_requests_that_are_overtaken_step_back_in_their_order() -> None:
    gpus, leases = two_halves(30, 40)
    line = [waiter(name, "3g.20gb", asked=asked) for asked, name in enumerate(("ann", "ben", "cem"))]
    line = promised(line, plan(gpus, leases, line, NOW))
    assert starts(plan(gpus, leases, line, NOW)) == {"ann": 31, "ben": 41, "cem": 92}
    boss = waiter("boss", "3g.20gb", asked=9, priority=10)
    made = plan(gpus, leases, [*line, boss], NOW, overtaking="boss")
    assert starts(made) == {"boss": 31, "ann": 41, "ben": 92, "cem": 102}
    assert [(each.id, each.cause) for each in made.delays] == [
        (name, Cause.PRIORITY) for name in ("ann", "ben", "cem")
    ]


def test_a_raised_request_takes_its_place_by_age_among_those_of_its_new_priority() -> None:
    gpus, leases = two_halves(30)
    line = [waiter("ann", "3g.20gb"), waiter("ben", "3g.20gb", asked=1, priority=10)]
    line = promised(line, plan(gpus, leases, line, NOW))
    assert starts(plan(gpus, leases, line, NOW)) == {"ben": 31, "ann": 92}
    raised = [replace(line[0], priority=10), line[1]]
    assert starts(plan(gpus, leases, raised, NOW, overtaking="ann")) == {"ann": 31, "ben": 92}


def test_an_equal_request_keeps_its_promise_when_an_earlier_one_loses_its_gpu() -> None:
    gpus, leases = two_halves(30, 40)
    line = [waiter("ann", "3g.20gb"), waiter("ben", "3g.20gb", asked=1)]
    line = promised(line, plan(gpus, leases, line, NOW))
    left = [gpu for gpu in gpus if line[0].reservation and gpu.gpu.uuid != line[0].reservation.gpu]
    made = plan(left, leases, line, NOW)
    assert starts(made) == {"ben": 41, "ann": 102}
    assert [(each.id, each.cause) for each in made.delays] == [("ann", Cause.GPU_LOST)]


def test_a_higher_priority_alone_moves_nobody_who_was_promised_a_time() -> None:
    [gpu] = opened()
    line = promised([waiter("ann")], plan([gpu], [], [waiter("ann")], NOW + minutes(31)))
    made = plan([gpu], [], [*line, waiter("boss", asked=5, priority=10, lasts=600)], NOW + minutes(31))
    assert made.delays == ()


def test_a_lost_gpu_moves_its_requests_to_another_one_and_the_delay_is_reported() -> None:
    first, second = opened("A100-40GB", "A100-40GB")
    leases = [lease(first, "7g.40gb", 0, 8, 30, "one"), lease(second, "7g.40gb", 0, 8, 90, "two")]
    line = promised([waiter("ann")], plan([first, second], leases, [waiter("ann")], NOW))
    made = plan([second], leases, line, NOW)
    assert [(each.id, each.cause, each.now) for each in made.delays] == [
        ("ann", Cause.GPU_LOST, NOW + minutes(91))
    ]
    assert made.reservations["ann"].gpu == second.gpu.uuid


def test_a_slice_that_is_not_free_in_time_delays_a_request_and_it_is_reported() -> None:
    [gpu] = opened()
    leases = [lease(gpu, "7g.40gb", 0, 8, ends=30)]
    line = promised([waiter("ann")], plan([gpu], leases, [waiter("ann")], NOW))
    late = plan([gpu], leases, line, NOW + minutes(40))
    assert late.due == ()
    assert [(each.cause, each.now) for each in late.delays] == [(Cause.NOT_FREE, NOW + minutes(41))]


def test_between_equal_begins_the_highest_placement_wins_whatever_was_seen_before() -> None:
    for seen_first in (0, 4):
        [gpu] = opened()
        gpu = replace(gpu, gpu=replace(gpu.gpu, name=f"whose {seen_first} is seen first"))
        leases = [lease(gpu, "3g.20gb", seen_first, 4, ends=10), lease(gpu, "3g.20gb", 4 - seen_first, 4, 10)]
        first = Book([gpu], leases, NOW, {}).earliest("3g.20gb", minutes(60))
        assert first
        assert (first.slice.placement, first.start) == (Placement(4, 4), NOW + minutes(11))


def test_a_gpu_that_closes_takes_only_what_ends_before() -> None:
    [gpu] = opened()
    closing = replace(gpu, closes_at=(NOW + minutes(90)).timestamp())
    line = [waiter("fits", "3g.20gb", 60), waiter("does not", "3g.20gb", 120, asked=1)]
    assert starts(plan([closing], [], line, NOW)) == {"fits": 0}


def test_a_lease_can_be_extended_to_the_minute_before_the_promise_behind_it() -> None:
    [gpu] = opened()
    leases = [
        lease(gpu, "3g.20gb", 0, 4, ends=30, session="short"),
        lease(gpu, "3g.20gb", 4, 4, ends=90, session="long"),
    ]
    made = plan([gpu], leases, [waiter("ann")], NOW)
    assert made.latest_ends == {"short": NOW + minutes(90), "long": NOW + minutes(90)}
    assert made.waited_for_by == {"short": "ann", "long": "ann"}


def test_a_maintenance_limits_extensions_and_nobody_is_named() -> None:
    [gpu] = opened()
    closing = replace(gpu, closes_at=(NOW + minutes(120)).timestamp())
    made = plan([closing], [lease(gpu, "3g.20gb", 0, 4, ends=30)], [], NOW)
    assert made.latest_ends == {"session": NOW + minutes(119)}
    assert made.waited_for_by == {"session": None}


def test_media_engines_count_like_memory() -> None:
    [gpu] = opened()
    leases = [lease(gpu, "1g.5gb+me", 0, 1, ends=30)]
    made = plan([gpu], leases, [waiter("ann", "1g.5gb+me")], NOW)
    assert starts(made) == {"ann": 31}
    assert made.latest_ends == {"session": NOW + minutes(30)}


def test_idle_instances_are_promised_where_the_administrator_makes_them() -> None:
    [gpu] = opened(policy=MigPolicy.STATIC)
    place = Placement(0, 4)
    static = replace(gpu, standing=[Slice("3g.20gb", place)])
    held = Lease("session", gpu.gpu.uuid, Slice("3g.20gb", place, True), NOW + minutes(30))
    made = plan([static], [held], [waiter("ann", "3g.20gb"), waiter("ben", "2g.10gb", asked=1)], NOW)
    assert made.reservations == {
        "ann": Reservation(gpu.gpu.uuid, Slice("3g.20gb", place, True), NOW + minutes(31))
    }


def test_a_session_that_does_not_wait_begins_only_beside_the_promises() -> None:
    [gpu] = opened()
    leases = [lease(gpu, "4g.20gb", 0, 4, ends=90)]
    line = promised([waiter("ann")], plan([gpu], leases, [waiter("ann")], NOW))
    assert [each.slice.placement for each in spots([gpu], leases, line, "3g.20gb", minutes(60), NOW)] == [
        Placement(4, 4)
    ]
    assert spots([gpu], leases, line, "3g.20gb", minutes(120), NOW) == []


# Random lives of a pool.


@dataclass
class World:
    """A pool on which sessions begin, end and are extended as the plan allows."""

    gpus: list[OpenGpu]
    now: datetime = NOW
    leases: dict[str, Lease] = field(default_factory=dict)
    line: dict[str, Waiter] = field(default_factory=dict)
    promised: dict[str, datetime] = field(default_factory=dict)
    made: Plan = field(default_factory=lambda: Plan({}))
    passed: set[tuple[str, str]] = field(default_factory=set)
    count: int = 0

    @classmethod
    def full(cls, gpus: int, ends: Sequence[int], asked: Iterable[tuple[str, int, int]]) -> "World":
        """A pool of A100-40GB in which no slice is free, and a line in front of it. `ends` are the minutes
        after which the leases end, `asked` the profile, the lease and the wait of each request."""
        world = cls(opened(*["A100-40GB"] * gpus))
        for index, open_gpu in enumerate(world.gpus):
            for start, profile in ((0, "4g.20gb"), (4, "3g.20gb")):
                name, end = f"s{index}{start}", ends[(2 * index + start) % len(ends)]
                world.leases[name] = lease(open_gpu, profile, start, 4, end, name)
        for profile, lasts, waits in asked:
            world.ask(profile, lasts, waits)
        world.settle()
        return world

    def settle(self) -> None:
        """Plan, and begin what is due, until nothing more is."""
        while True:
            self.plan()
            assert self.made.delays == ()
            if not self.made.due:
                return
            self.begin(self.made.due[0])

    def plan(self, overtaking: str | None = None) -> None:
        """No promise gets later or is taken away, unless the plan says so."""
        leases, before = list(self.leases.values()), dict(self.promised)
        self.passed |= {
            (first.id, later.id)
            for first, later in equal_pairs(self.line.values())
            if first.id != overtaking and _begin(later) < _begin(first)
        }
        self.made = plan(self.gpus, leases, self.line.values(), self.now, overtaking=overtaking)
        delayed = {delay.id for delay in self.made.delays}
        for name in self.line:
            made = self.made.reservations.get(name)
            self.line[name] = replace(self.line[name], reservation=made)
            is_later = name in before and (made is None or made.start > before[name])
            assert is_later == (name in delayed), "a promise got later"
            self.promised.pop(name, None)
            if made:
                self.promised[name] = made.start
        self.check()

    def rise(self, index: int, priority: int) -> None:
        """An operator raises a priority: only those behind the request step back."""
        if not self.line:
            return
        name = sorted(self.line)[index % len(self.line)]
        if priority > self.line[name].priority:
            self.line[name] = replace(self.line[name], priority=priority)
            self.plan(overtaking=name)
            for delay in self.made.delays:
                assert delay.cause is Cause.PRIORITY
                assert self.line[delay.id].order > self.line[name].order
            event(f"delayed by a priority: {min(len(self.made.delays), 5)}")

    def begin(self, name: str) -> None:
        waiter, reservation = self.line.pop(name), self.made.reservations[name]
        assert self.now <= self.promised[name]
        self.leases[name] = Lease(name, reservation.gpu, reservation.slice, self.now + waiter.lease)

    def ask(self, profile: str, lasts: int, waits: int) -> None:
        self.count += 1
        name = f"r{self.count:04}"
        self.line[name] = Waiter(name, profile, minutes(lasts), self.now, self.now + minutes(waits))

    def extend(self, index: int, by: int) -> None:
        if self.leases:
            name = sorted(self.leases)[index % len(self.leases)]
            lease = self.leases[name]
            latest = self.made.latest_ends.get(name, lease.ends + minutes(by))
            self.leases[name] = replace(lease, ends=min(latest, lease.ends + minutes(by)))

    def leave(self, index: int) -> None:
        if self.leases:
            del self.leases[sorted(self.leases)[index % len(self.leases)]]

    def pass_time(self, count: int) -> None:
        """Minute by minute: leases end, requests give up."""
        for _ in range(count):
            self.now += minutes(1)
            self.leases = {name: each for name, each in self.leases.items() if each.ends > self.now}
            self.line = {name: each for name, each in self.line.items() if each.until > self.now}
            self.settle()

    def check(self) -> None:
        _assert_nothing_overlaps(self.gpus, self.leases.values(), self.line, self.made.reservations, self.now)
        _assert_first_come_first_served(self.line.values(), self.made, self.passed)


def _assert_nothing_overlaps(
    gpus: Sequence[OpenGpu],
    leases: Iterable[Lease],
    line: Mapping[str, Waiter],
    reservations: Mapping[str, Reservation],
    now: datetime,
) -> None:
    """By brute force, with the capacity of `mig` alone."""
    spans = [(each.gpu, each.slice, now, each.ends + TURNOVER) for each in leases]
    for name, each in reservations.items():
        begin = max(now, each.start)
        spans.append((each.gpu, each.slice, begin, begin + line[name].lease + TURNOVER))
    for open_gpu in gpus:
        own = [span for span in spans if span[0] == open_gpu.gpu.uuid]
        for _, _, moment, _ in own:
            active = [slice_ for _, slice_, begin, end in own if begin <= moment < end]
            _assert_fits(open_gpu.gpu, active)


def _assert_fits(gpu: Gpu, slices: Iterable[Slice]) -> None:
    capacity = FreeCapacity.of(gpu)
    for slice_ in slices:
        profile = gpu.profile(slice_.profile)
        assert profile is not None
        assert slice_.placement in capacity.places(profile), "two slices overlap"
        capacity = capacity.without(profile.name, profile, slice_.placement)


def equal_pairs(line: Iterable[Waiter]) -> Iterator[tuple[Waiter, Waiter]]:
    """Two requests that want the same, the first in line first."""
    for first, later in combinations(sorted(line, key=lambda waiter: waiter.order), 2):
        if (first.priority, first.profile, first.lease) == (later.priority, later.profile, later.lease):
            yield first, later


def _begin(waiter: Waiter) -> datetime:
    return waiter.reservation.start if waiter.reservation else datetime.max.replace(tzinfo=UTC)


def _assert_first_come_first_served(
    line: Collection[Waiter], made: Plan, passed: Collection[tuple[str, str]]
) -> None:
    """A request that loses its promise is passed by an equal one only at a time for which it does not wait.
    `passed` are those of which the later one had the earlier promise already: the first was promised
    nothing then because it does not wait long, or they had different priorities."""
    starts = {delay.id: next(each.until for each in line if each.id == delay.id) for delay in made.delays}
    starts |= {name: each.start for name, each in made.reservations.items()}
    for first, later in equal_pairs(line):
        is_free = (first.id, later.id) in passed or first.id not in starts
        if later.id in made.reservations and not is_free:
            assert starts[first.id] <= starts[later.id], "a later request overtook an equal one"


_WANTED = st.tuples(
    st.sampled_from(PROFILES), st.sampled_from((5, 30, 60, 240)), st.sampled_from((10, 120, 6000))
)
# A long line of few kinds, so that many requests in it want the same.
_LONG_LINE = st.lists(
    st.tuples(st.sampled_from(("2g.10gb", "3g.20gb", "7g.40gb")), st.just(60), st.sampled_from((150, 6000))),
    min_size=6,
    max_size=16,
)
_ENDS = st.lists(st.integers(1, 240), min_size=1, max_size=6)
_ACTS = st.one_of(
    _WANTED.map(lambda wanted: ("ask", *wanted)),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("extend"), st.integers(0, 20), st.sampled_from((1, 30, 300))),
    st.tuples(st.just("pass_time"), st.integers(1, 40)),
)
_RISES = st.tuples(st.just("rise"), st.integers(0, 30), st.integers(1, 3))


def live(world: World, acts: Iterable[tuple[object, ...]]) -> None:
    for verb, *arguments in acts:
        getattr(world, str(verb))(*arguments)
        world.settle()
    event(f"opened from the line: {min((world.count - len(world.line)) // 5 * 5, 20)} or more")
    event(f"in line at the end: {min(len(world.line) // 3 * 3, 12)} or more")


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.lists(_ACTS, max_size=40))
def test_promises_only_get_earlier_whatever_happens(gpus: int, acts: list[tuple[object, ...]]) -> None:
    live(World(opened(*["A100-40GB"] * gpus)), acts)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), _ENDS, _LONG_LINE, st.lists(_ACTS, max_size=20))
def test_promises_only_get_earlier_in_front_of_a_full_pool(
    gpus: int, ends: list[int], line: list[tuple[str, int, int]], acts: list[tuple[object, ...]]
) -> None:
    live(World.full(gpus, ends, line), acts)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 2), _ENDS, _LONG_LINE, st.lists(st.one_of(_ACTS, _RISES), min_size=1, max_size=12))
def test_a_priority_delays_only_those_behind_it_and_equal_requests_stay_in_their_order(
    gpus: int, ends: list[int], line: list[tuple[str, int, int]], acts: list[tuple[object, ...]]
) -> None:
    live(World.full(gpus, ends, line), acts)


def test_a_plan_for_a_thousand_in_line_on_64_gpus_takes_a_bounded_number_of_steps() -> None:
    """The worst one takes 280,000 calls of functions, which is about 50 ms. The time depends on what else the
    machine does; `python -m tests.bench.waiting --plans` measures it."""
    for each in long_lines():
        with cProfile.Profile() as profile:
            made = each.plan()
        assert len(made.reservations) == len(each.line)
        assert pstats.Stats(profile).total_calls <= 400_000  # type: ignore[attr-defined]


def test_a_session_that_opens_a_little_late_delays_nobody() -> None:
    """The opener takes seconds, and a failed attempt some more."""
    [gpu] = opened()
    line = [waiter("ann"), waiter("ben", asked=1)]
    line = promised(line, plan([gpu], [], line, NOW))
    for late in (1, 30, 59):
        now = NOW + timedelta(seconds=late)
        unopened = plan([gpu], [], line, now)
        assert (unopened.due, unopened.delays) == (("ann",), ())
        begun = Lease("ann", gpu.gpu.uuid, line[0].reservation.slice, now + line[0].lease)  # type: ignore[union-attr]
        assert plan([gpu], [begun], line[1:], now).delays == ()
    much_later = plan([gpu], [], line, NOW + minutes(5))
    assert [(each.id, each.now) for each in much_later.delays] == [("ben", NOW + minutes(66))]
