"""The waiting line: promises that only get earlier, and what breaks them."""

import cProfile
import pstats
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import event, given, settings
from hypothesis import strategies as st

from gateway.domain.mig import FreeCapacity, Gpu, MigPolicy, Placement
from gateway.domain.timeline import OpenGpu, Slice
from gateway.domain.waiting import TURNOVER, Cause, Lease, Plan, Reservation, Waiter, plan, spots
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
    count: int = 0

    def settle(self) -> None:
        """Plan, and begin what is due, until nothing more is."""
        while True:
            self.made = plan(self.gpus, list(self.leases.values()), self.line.values(), self.now)
            for name, each in self.made.reservations.items():
                self.line[name] = replace(self.line[name], reservation=each)
                assert each.start <= self.promised.get(name, datetime.max.replace(tzinfo=UTC)), (
                    "a promise got later"
                )
                self.promised[name] = each.start
            assert self.made.delays == ()
            assert set(self.promised) & set(self.line) == set(self.made.reservations), (
                "a promise was taken away"
            )
            self.check()
            if not self.made.due:
                return
            self.begin(self.made.due[0])

    def begin(self, name: str) -> None:
        waiter, reservation = self.line.pop(name), self.made.reservations[name]
        assert self.now <= self.promised[name] or self.promised[name] == self.now
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
        _assert_first_come_first_served(self.line.values(), self.made.reservations)


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


def _assert_first_come_first_served(line: Iterable[Waiter], reservations: Mapping[str, Reservation]) -> None:
    last: dict[tuple[object, ...], datetime] = {}
    for each in sorted(line, key=lambda waiter: waiter.order):
        key = (each.priority, each.profile, each.lease)
        if each.id in reservations:
            start = reservations[each.id].start
            assert last.get(key, start) <= start, "a later request overtook an equal one"
            last[key] = start


_ACTS = st.one_of(
    st.tuples(
        st.just("ask"),
        st.sampled_from(PROFILES),
        st.sampled_from((5, 30, 60, 240)),
        st.sampled_from((10, 120, 6000)),
    ),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("extend"), st.integers(0, 20), st.sampled_from((1, 30, 300))),
    st.tuples(st.just("pass_time"), st.integers(1, 40)),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.lists(_ACTS, max_size=40))
def test_promises_only_get_earlier_whatever_happens(gpus: int, acts: list[tuple[object, ...]]) -> None:
    world = World(opened(*["A100-40GB"] * gpus))
    for verb, *arguments in acts:
        getattr(world, str(verb))(*arguments)
        world.settle()
    event(f"opened from the line: {min(len(world.promised) // 5 * 5, 20)} or more")
    event(f"in line at the end: {min(len(world.line) // 3 * 3, 12)} or more")


@settings(max_examples=60, deadline=None)
@given(st.lists(_ACTS, max_size=25), st.integers(0, 30), st.integers(1, 9))
def test_a_priority_delays_only_those_below_it(
    acts: list[tuple[object, ...]], index: int, priority: int
) -> None:
    world = World(opened("A100-40GB", "A100-40GB"))
    for verb, *arguments in acts:
        getattr(world, str(verb))(*arguments)
        world.settle()
    if not world.line:
        return
    name = sorted(world.line)[index % len(world.line)]
    world.line[name] = replace(world.line[name], priority=priority)
    before = {each: waiter.reservation for each, waiter in world.line.items()}
    made = plan(world.gpus, list(world.leases.values()), world.line.values(), world.now, overtaking=name)
    world.made = made
    world.check()
    assert {delay.id for delay in made.delays} <= set(world.line) - {name}
    assert all(delay.cause is Cause.PRIORITY for delay in made.delays)
    later = {
        each
        for each, old in before.items()
        if old and (each not in made.reservations or made.reservations[each].start > old.start)
    }
    assert later == {delay.id for delay in made.delays}
    event(f"delayed by the priority: {len(later)}")


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
