"""How a container differs from its plan, and why it ended: as tables."""

from dataclasses import replace

import pytest

from gateway.domain.containers import End, Setup, deviations
from gateway.domain.states import Reason

PLANNED = Setup(
    networks={"worknet": "10.213.0.3"},
    mounts=frozenset(
        {("/srv/workspaces/user123", "/home/user123", True), ("/state/etc", "/etc/gateway", False)}
    ),
    limits={"Memory": 2**30, "PidsLimit": 1024},
)


def found(shown: Setup, *, is_paused: bool = False, is_closed: bool = True) -> dict[str, bool]:
    """What differs, and whether it can be repaired."""
    return {
        deviation.what: deviation.is_repairable
        for deviation in deviations(PLANNED, shown, is_paused=is_paused, is_closed=is_closed)
    }


def test_a_container_that_is_as_planned_does_not_deviate() -> None:
    assert found(PLANNED) == {}


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (
            {"worknet": "10.213.0.3", "bridge": "172.17.0.2"},
            {"it is connected to the network bridge": True},
        ),
        ({}, {"it is not connected to the network worknet": True}),
        ({"worknet": "10.213.0.9"}, {"its address is 10.213.0.9, not 10.213.0.3": True}),
        (
            {"host": ""},
            {
                "it is connected to the network host": True,
                "it is not connected to the network worknet": True,
            },
        ),
    ],
)
def test_networks_and_addresses_are_repaired(networks: dict[str, str], expected: dict[str, bool]) -> None:
    assert found(replace(PLANNED, networks=networks)) == expected


def test_rules_that_are_missing_are_loaded_again_and_a_pause_is_reported() -> None:
    assert found(PLANNED, is_closed=False) == {"the rules in its network namespace are missing": True}
    assert found(PLANNED, is_paused=True) == {"its container is paused: run `docker unpause`": False}


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        (PLANNED.mounts | {("/etc", "/mnt", False)}, ["/etc is mounted at /mnt, which was not planned"]),
        (
            PLANNED.mounts - {("/state/etc", "/etc/gateway", False)},
            ["the mount at /etc/gateway is not as planned"],
        ),
        (
            (PLANNED.mounts - {("/state/etc", "/etc/gateway", False)})
            | {("/state/etc", "/etc/gateway", True)},
            [
                "/state/etc is mounted at /etc/gateway, which was not planned",
                "the mount at /etc/gateway is not as planned",
            ],
        ),
    ],
    ids=["another", "missing", "writable"],
)
def test_mounts_are_reported(mounts: frozenset[tuple[str, str, bool]], expected: list[str]) -> None:
    assert found(replace(PLANNED, mounts=mounts)) == dict.fromkeys(expected, False)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"Memory": 0, "PidsLimit": 1024}, "its limit Memory is 0, not 1073741824"),
        ({"Memory": 2**30}, "its limit PidsLimit is None, not 1024"),
    ],
)
def test_limits_are_reported(limits: dict[str, int], expected: str) -> None:
    assert found(replace(PLANNED, limits=limits)) == {expected: False}


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (End(0), Reason.USER_EXIT),
        (End(255), Reason.USER_EXIT),
        (End(0, oom_killed=True), Reason.USER_EXIT),  # a program of the user's, some time before
        (End(137, oom_killed=True), Reason.OUT_OF_MEMORY),
        (End(137), Reason.KILLED),
        (End(137, actions={"kill"}), Reason.KILLED),
        (End(137, oom_killed=True, actions={"kill"}), Reason.KILLED),
        (End(255, actions={"kill"}), Reason.KILLED),
        (End(255, actions={"kill", "stop"}), Reason.STOPPED),
        (End(137, actions={"kill", "stop"}), Reason.STOPPED),
        (End(255, actions={"kill", "stop", "restart"}), Reason.RESTARTED),
        (End(0, was_restarted=True), Reason.RESTARTED),
    ],
)
def test_each_end_has_its_reason(end: End, reason: Reason) -> None:
    assert end.reason is reason


def test_every_reason_fits_into_the_database() -> None:
    assert max(len(reason) for reason in Reason) <= 16
