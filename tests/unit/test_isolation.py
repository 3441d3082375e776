"""What `docker info` must report for sessions to be isolated, and a process of a session must show."""

from typing import Any

import pytest

from gateway.domain.isolation import (
    forbidden,
    is_status,
    is_too_old,
    notes,
    toolkit_note,
    weaknesses,
    weaknesses_of_process,
)

GOOD: dict[str, Any] = {
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
    "MemoryLimit": True,
    "PidsLimit": True,
    "CPUCfsQuota": True,
}
NO_APPARMOR = ["name=seccomp,profile=builtin"]


def names(info: dict[str, Any], kernel_has_apparmor: bool = True) -> list[str | None]:
    return [one.name for one in weaknesses(GOOD | info, kernel_has_apparmor=kernel_has_apparmor)]


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, []),
        ({"SecurityOptions": ["name=apparmor", "name=seccomp,profile=/etc/own.json"]}, []),
        ({"SecurityOptions": ["name=apparmor", "name=seccomp,profile=unconfined"]}, ["seccomp"]),
        ({"SecurityOptions": ["name=apparmor"]}, ["seccomp"]),
        ({"SecurityOptions": NO_APPARMOR}, ["apparmor"]),
        ({"SecurityOptions": None}, ["seccomp", "apparmor"]),
        ({"SecurityOptions": [*GOOD["SecurityOptions"], "name=userns"]}, [None]),
        ({"SecurityOptions": [*GOOD["SecurityOptions"], "name=rootless"]}, [None]),
        ({"MemoryLimit": False, "PidsLimit": False, "CPUCfsQuota": False}, ["memory", "pids", "cpu"]),
    ],
)
def test_each_setting_that_voids_a_promise_is_found(info: dict[str, Any], expected: list[str | None]) -> None:
    assert names(info) == expected


def test_a_kernel_without_apparmor_promises_none() -> None:
    assert names({"SecurityOptions": NO_APPARMOR}, kernel_has_apparmor=False) == []


def test_an_administrator_allows_weaknesses_by_name_but_no_mapped_users() -> None:
    info = GOOD | {"SecurityOptions": None, "MemoryLimit": False}
    found = list(weaknesses(info, kernel_has_apparmor=True))
    assert forbidden(found, ("seccomp", "apparmor", "memory")) is None
    refusal = forbidden(found, ("apparmor",))
    assert refusal is not None
    assert refusal.endswith("or allow it with --allow-weaker seccomp,memory.")
    mapped = list(
        weaknesses(GOOD | {"SecurityOptions": ["name=userns", *NO_APPARMOR]}, kernel_has_apparmor=False)
    )
    assert forbidden(mapped, ("seccomp", "apparmor", "memory", "pids", "cpu")) is not None


@pytest.mark.parametrize(
    ("version", "too_old"),
    [
        ("20.10.24+dfsg1", True),
        ("23.0.6", True),
        ("24.0.0", False),
        ("26.1.5+dfsg1", False),
        ("28.2.2", False),
    ],
)
def test_engines_below_24_are_too_old(version: str, too_old: bool) -> None:
    assert is_too_old({"Version": version}) is too_old


def test_old_versions_of_runc_are_noted() -> None:
    def noted(runc: str) -> str:
        parts = [{"Name": "Engine", "Version": "26.1.5"}, {"Name": "runc", "Version": runc}]
        return ", ".join(notes({"Version": "26.1.5", "Components": parts}))

    assert noted("1.2.8") == "Engine 26.1.5, runc 1.2.8"
    assert noted("1.3.0") == "Engine 26.1.5, runc 1.3.0"
    assert "CVE-2024-21626" in noted("1.1.5+ds1")


def test_engines_with_a_known_hole_are_noted() -> None:
    assert list(notes({"Version": "26.1.5+dfsg1"})) == ["Engine 26.1.5+dfsg1"]
    assert list(notes({"Version": "24.0.7"})) == [
        "Engine 24.0.7 (below 25.0.4: see that your distribution has repaired CVE-2024-29018)"
    ]


@pytest.mark.parametrize(
    ("version", "noted"),
    [
        ("1.17.8", "NVIDIA container toolkit 1.17.8"),
        ("1.18.2~rc.1", "NVIDIA container toolkit 1.18.2~rc.1"),
        ("1.17.7", "CVE-2025-23266"),
        ("1.9.0", "CVE-2024-0132"),
        (None, "of unknown version (`nvidia-ctk --version` on the host: 1.17.8 or later)"),
    ],
)
def test_old_versions_of_nvidias_toolkit_are_noted(version: str | None, noted: str) -> None:
    assert noted in toolkit_note(version)
    assert ("below" in toolkit_note(version)) is (version in ("1.17.7", "1.9.0"))


CONFINED = """\
Name:\tcat
Uid:\t20000
CapInh:\t0000000000000000
CapEff:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
"""


@pytest.mark.parametrize(
    ("is_replaced", "by", "expected"),
    [
        ("", "", []),
        ("Seccomp:\t2", "Seccomp:\t0", ["seccomp"]),
        ("Seccomp:\t2\n", "", ["seccomp"]),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", ["no-new-privileges"]),
        ("CapEff:\t0000000000000000", "CapEff:\t00000000a80425fb", ["capabilities"]),
        ("CapInh:\t0000000000000000", "CapInh:\t0000000000000400", ["capabilities"]),
    ],
)
def test_a_process_that_is_not_confined_as_promised_is_found(
    is_replaced: str, by: str, expected: list[str]
) -> None:
    status = CONFINED.replace(is_replaced, by) if is_replaced else CONFINED
    assert [one.name for one in weaknesses_of_process(status)] == expected


def test_only_the_status_of_a_process_is_judged() -> None:
    assert is_status(CONFINED)
    assert not is_status("cat: /proc/self/status: No such file or directory\n")
