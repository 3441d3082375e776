"""Which running containers are checked for their GPU, and what follows from the results."""

from collections.abc import Callable, Mapping

from gateway.errors import ContainerFailed, DockerUnavailable
from gateway.repositories.docker.gpu_access import GpuAccess


class Inside:
    """Containers that can lose their GPU. `checked` are the ids in the order of the checks."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.silent: set[str] = set()
        self.refusing: set[str] = set()
        self.failing: set[str] = set()
        self.checked: list[str] = []
        self.now = 0.0

    def opens(self, id: str, gpu_uuid: str) -> bool | None:
        assert gpu_uuid == f"MIG-{id}"
        self.checked.append(id)
        if id in self.refusing:
            raise ContainerFailed("is paused")
        if id in self.failing:
            raise DockerUnavailable("no answer")
        return None if id in self.silent else id not in self.lost

    def round(self, access: GpuAccess, running: Mapping[str, str], after: float = 0) -> list[str]:
        """Return the ids that one round checks."""
        self.now += after
        self.checked.clear()
        access.lost(running)
        return list(self.checked)


def running(count: int) -> Mapping[str, str]:
    return {f"{number:02}": f"MIG-{number:02}" for number in range(count)}


def made() -> tuple[Inside, GpuAccess, Callable[..., list[str]]]:
    inside = Inside()
    access = GpuAccess(inside.opens, lambda: inside.now)
    return inside, access, lambda count, after=0.0: inside.round(access, running(count), after)


def test_a_container_is_checked_when_it_is_first_seen_and_then_every_five_minutes() -> None:
    _, _, checks = made()
    assert checks(1) == ["00"]
    assert checks(1, 299) == []
    assert checks(1, 1) == ["00"]


def test_a_container_that_cannot_open_its_gpu_is_lost_until_it_can() -> None:
    inside, access, _ = made()
    inside.lost = {"01"}
    assert access.lost(running(3)) == {"01"}
    inside.now += 300
    inside.lost.clear()
    assert access.lost(running(3)) == set()


def test_a_result_that_is_unknown_leaves_the_last_one() -> None:
    inside, access, _ = made()
    inside.lost = {"00"}
    access.lost(running(2))
    inside.now, inside.silent, inside.failing = inside.now + 300, {"00"}, {"01"}
    assert access.lost(running(2)) == {"00"}


def test_a_round_checks_sixteen_at_most_and_the_next_one_goes_on() -> None:
    _, _, checks = made()
    first, second, third = checks(40), checks(40, 60), checks(40, 60)
    assert (len(first), len(second), len(third)) == (16, 16, 8)
    assert len({*first, *second, *third}) == 40


def test_a_round_that_finds_a_lost_gpu_checks_all_and_the_next_one_is_short_again() -> None:
    inside, access, checks = made()
    inside.lost = {f"{number:02}" for number in range(40)}
    assert len(checks(40)) == 40
    assert access.lost(running(40)) == inside.lost
    assert len(checks(40, 300)) == 16


def test_a_container_that_refuses_the_check_does_not_delay_the_others() -> None:
    inside, _, checks = made()
    inside.refusing = {"00"}
    assert checks(3) == ["00", "01", "02"]
    assert checks(3, 60) == []


def test_a_daemon_that_does_not_answer_ends_the_round_and_is_not_first_in_the_next() -> None:
    inside, _, checks = made()
    inside.failing = {"00"}
    assert checks(3) == ["00"]
    assert checks(3, 60) == ["01", "02"]


def test_a_container_that_ended_is_forgotten() -> None:
    inside, access, _ = made()
    inside.lost = {"00"}
    access.lost(running(1))
    assert access.lost({}) == set()
    inside.lost.clear()
    assert access.lost(running(1)) == set()
