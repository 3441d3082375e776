"""What a session's status may become, and what it may not."""

from datetime import UTC, datetime

import pytest

from gateway.domain.mig import Placement
from gateway.domain.models import Session
from gateway.domain.plan import Allocation, Started
from gateway.domain.states import Reason, Status

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)
FORWARD = {
    (Status.PENDING, Status.ACTIVE),
    (Status.PENDING, Status.CLOSING),
    (Status.ACTIVE, Status.CLOSING),
}


def started(container_id: str) -> Started:
    allocation = Allocation("GPU-0", "3g.20gb", Placement(4, 4), mig_uuid="MIG-1")
    return Started(container_id, "10.0.0.2", allocation)


def session(status: Status) -> Session:
    made = Session(status=Status.PENDING)
    if status == Status.ACTIVE:
        made.activate(started("container"), NOW)
    if status == Status.CLOSING:
        made.close(Reason.DELETED)
    assert made.status == status
    return made


@pytest.mark.parametrize("old", Status)
@pytest.mark.parametrize("new", Status)
def test_the_status_of_a_session_only_moves_forward(old: Status, new: Status) -> None:
    changing = session(old)
    if (old, new) in FORWARD:
        changing.status = new
        assert changing.status == new
    else:
        with pytest.raises(ValueError, match=f"that is {old} cannot become {new}"):
            changing.status = new
        assert changing.status == old


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.CLOSING])
def test_a_session_begins_as_pending(status: Status) -> None:
    with pytest.raises(ValueError, match=f"that is new cannot become {status}"):
        Session(status=status)


@pytest.mark.parametrize("status", [Status.PENDING, Status.ACTIVE])
def test_only_a_closing_session_ends(status: Status) -> None:
    with pytest.raises(ValueError, match="cannot end before it closes"):
        session(status).ended(NOW)


def test_an_active_session_is_not_activated_again() -> None:
    active = session(Status.ACTIVE)
    with pytest.raises(ValueError, match="cannot become active"):
        active.activate(started("another"), NOW)
    assert active.container_id == "container"


def test_a_session_closed_while_it_opens_stays_closing() -> None:
    closing = session(Status.CLOSING)
    closing.activate(started("container"), NOW)
    assert (closing.status, closing.container_id) == (Status.CLOSING, "container")


def test_the_first_reason_to_close_stays() -> None:
    closing = session(Status.CLOSING)
    closing.close(Reason.EXPIRED)
    assert closing.end_reason == Reason.DELETED
