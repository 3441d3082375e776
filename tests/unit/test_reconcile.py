from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.domain.clock import Moment
from gateway.domain.leased import OPENING_GRACE
from gateway.domain.mig import Gpu, MigMode, Placement
from gateway.domain.models import Session
from gateway.domain.observation import Container, Observation, Place
from gateway.domain.observation import ServerView as View
from gateway.domain.plan import Allocation, Started
from gateway.domain.reconcile import Plan
from gateway.domain.reconcile import plan as plan_of
from gateway.domain.states import Reason, Status

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)
MOMENT = Moment(NOW, "boot", timedelta(days=1))


def session(
    id: str, status: Status = Status.ACTIVE, age: timedelta = timedelta(minutes=1), reason: str | None = None
) -> Session:
    made = Session(id=id, status=Status.PENDING)
    made.lease_from(Moment(NOW - age, "an earlier boot", timedelta()), age + timedelta(hours=1))
    if status != Status.PENDING and reason != Reason.FAILED:
        made.activate(
            Started("c", "10.0.0.2", Allocation("GPU-9", "3g.20gb", Placement(0, 4), mig_uuid="MIG-0")),
            NOW,
        )
    if reason:
        made.close(Reason(reason))
    return made


def plan(sessions: list[Session], view: View, now: Moment) -> Plan:
    return plan_of(sessions, view.observe(sessions), now)


def test_what_agrees_is_left_alone() -> None:
    decided = plan([session("a")], View([Container("1", "a", ended=False)], files={"a": False}), MOMENT)
    assert (decided.close, decided.orphans) == ({}, [])


def test_a_container_whose_main_process_ended_was_ended_by_its_user() -> None:
    assert plan([session("a")], View([Container("1", "a", ended=True)]), MOMENT).close == {
        "a": Reason.USER_EXIT
    }


def test_an_active_session_without_a_container_has_failed() -> None:
    assert plan([session("a")], View([]), MOMENT).close == {"a": Reason.FAILED}


@pytest.mark.parametrize("containers", [[], [Container("1", "a", ended=True)]], ids=["gone", "ended"])
def test_what_did_not_live_through_a_restart_has_ended_with_it(containers: list[Container]) -> None:
    a_second = timedelta(seconds=1)
    before = session("a")
    lost = Gpu(0, "GPU-0", "A100", 40960, MigMode.ENABLED, 8, 7, (), ())
    before.gpu, before.start, before.size = "GPU-0", 0, 4
    seen = View(containers, gpus=[lost], up_since=before.created_at + a_second)
    assert plan([before], seen, MOMENT).close == {"a": Reason.RESTARTED}
    older = replace(seen, gpus=[], up_since=before.created_at + a_second / 2)
    assert plan([before], older, MOMENT).close["a"] in (Reason.FAILED, Reason.USER_EXIT)


def test_what_lived_through_a_restart_stays_and_may_lose_its_gpu_later() -> None:
    survivor, running = session("a"), [Container("1", "a", ended=False)]
    assert plan([survivor], View(running, up_since=NOW), MOMENT).close == {}
    survivor.gpu, survivor.start, survivor.size = "GPU-0", 0, 4
    empty = Gpu(0, "GPU-0", "A100", 40960, MigMode.ENABLED, 8, 7, (), ())
    assert plan([survivor], View(running, gpus=[empty], up_since=NOW), MOMENT).close == {"a": Reason.GPU_LOST}
    assert plan([survivor], View(None, gpus=[empty], up_since=NOW), MOMENT).close == {}


def test_a_pending_session_is_spared_within_its_grace_and_failed_after_it() -> None:
    young = session("a", Status.PENDING, OPENING_GRACE)
    old = session("b", Status.PENDING, OPENING_GRACE + timedelta(seconds=1))
    assert plan([young, old], View([]), MOMENT).close == {"b": Reason.FAILED}


def test_a_pending_session_whose_opener_has_died_is_taken_back_at_once() -> None:
    sessions = [session(id, Status.PENDING) for id in ("died", "lives", "elsewhere")]
    assert plan(sessions, View([], files={"died": False, "lives": True}), MOMENT).close == {
        "died": Reason.FAILED
    }


def test_what_was_deleted_while_it_was_opened_is_taken_back_when_its_opener_has_died() -> None:
    deleted = session("a", Status.CLOSING, reason="deleted")
    deleted.container_id = None
    assert plan([deleted], View([], files={"a": True}), MOMENT).close == {}
    assert plan([deleted], View([], files={"a": False}), MOMENT).close == {"a": Reason.DELETED}


def test_what_somebody_is_about_to_open_is_no_orphan() -> None:
    assert plan([], View([], files={"a": True, "b": False}), MOMENT).orphans == ["b"]


def test_closing_is_finished_for_the_reason_it_was_begun_with() -> None:
    assert plan([session("a", Status.CLOSING, reason="deleted")], View([]), MOMENT).close == {
        "a": Reason.DELETED
    }


def test_containers_and_files_without_a_row_are_orphans() -> None:
    containers = [Container("1", "a", False), Container("2", "b", False)]
    decided = plan([session("a")], View(containers, files={"c": False}), MOMENT)
    assert decided.orphans == ["b", "c"]


@pytest.mark.parametrize(("unknown", "of"), [(1, 1), (2, 19), (10, 20)])
def test_with_too_many_pods_without_a_row_nothing_is_an_orphan(unknown: int, of: int) -> None:
    ids = [f"{number:02}" for number in range(of)]
    seen = Observation({}, held={id: [Place.KUBERNETES] for id in [*ids, "files"]}, pods=ids)
    decided = plan_of([], seen, MOMENT, known=ids[unknown:])
    assert (decided.orphans, decided.unknown) == ([], ids[:unknown])


@pytest.mark.parametrize(("unknown", "of"), [(0, 0), (0, 5), (1, 10), (2, 20)])
def test_a_few_pods_without_a_row_are_orphans(unknown: int, of: int) -> None:
    ids = [f"{number:02}" for number in range(of)]
    seen = Observation({}, held={id: [Place.KUBERNETES] for id in [*ids, "files"]}, pods=ids)
    decided = plan_of([], seen, MOMENT, known=ids[unknown:])
    assert (decided.orphans, decided.unknown) == ([*ids, "files"], [])


def test_what_is_deleted_while_it_is_opened_is_left_to_its_opener_within_the_grace() -> None:
    young = session("a", Status.CLOSING, reason="deleted")
    old = session("b", Status.CLOSING, OPENING_GRACE + timedelta(seconds=1), reason="deleted")
    young.container_id = old.container_id = None
    assert plan([young, old], View([]), MOMENT).close == {"b": Reason.DELETED}


def test_an_opening_that_failed_and_could_not_be_undone_is_taken_back_at_once() -> None:
    assert plan([session("a", Status.CLOSING, reason="failed")], View([]), MOMENT).close == {
        "a": Reason.FAILED
    }


def test_a_session_whose_gpu_the_driver_does_not_name_stays_and_is_marked() -> None:
    """As after a start of the gateway with a GPU that is lost: its UUID cannot be asked for."""
    other = Gpu(0, "GPU-1", "A100", 40960, MigMode.ENABLED, 8, 7, (), ())
    marked = session("a")
    marked.gpu, marked.start, marked.size = "GPU-0", 0, 4
    containers = [Container("1", "a", ended=False)]
    decided = plan([marked], View(containers, gpus=[other]), MOMENT)
    assert decided.close == {}
    assert "does not answer for GPU GPU-0" in str(decided.problems["a"])
    assert plan([marked], View(containers), MOMENT).problems == {}, "no driver, no news"
