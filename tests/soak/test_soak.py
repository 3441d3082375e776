"""Races, churn and storm, short; `make soak` and `tests.soak.churn` run for as long as they are told to."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.database_url import DatabaseUrl
from gateway.repositories.sql import schema
from tests.soak.churn import churn
from tests.soak.race import AT_ONCE
from tests.soak.storm import storming
from tests.warm import warm


class Racer:
    """A process that races."""

    def __init__(self, directory: Path, name: str) -> None:
        command = [sys.executable, "-m", "tests.soak.race", str(directory), name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )

    def tell(self, what: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def end(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def racers(tmp_path: Path) -> Any:
    """Two worker processes of one gateway."""
    schema.upgrade(DatabaseUrl(tmp_path / "state/sessions.db"))
    racers = [Racer(tmp_path, name) for name in ("a", "b")]
    assert [racer.answer() for racer in racers] == ["ready\n"] * 2
    yield racers
    for racer in racers:
        racer.end()


def test_of_200_that_want_the_last_slice_from_two_processes_exactly_one_gets_it(racers: list[Racer]) -> None:
    for _ in range(4):
        for racer in racers:
            racer.tell("race")
        first, second = (json.loads(racer.answer()) for racer in racers)
        assert first.get("won", 0) + second.get("won", 0) == 1
        assert first.get("NoCapacity", 0) + second.get("NoCapacity", 0) == 2 * AT_ONCE - 1
        racers[0].tell("close")
        assert json.loads(racers[0].answer()) == {"True": 1}


@pytest.mark.parametrize(("seed", "line"), [(1, 0), (2, 10)], ids=["an open pool", "a line in front of it"])
def test_after_much_coming_and_going_with_faults_all_parts_agree(
    tmp_path: Path, seed: int, line: int
) -> None:
    events = churn(tmp_path, 200, seed, line=line)
    assert events["opened"] + events["opened from the line"] > 40
    assert events["agreements"] == 11
    assert events["in line, at agreements"] >= 11 * line / 2


def test_after_each_quiet_moment_of_a_storm_all_places_agree(tmp_path: Path) -> None:
    """Over this machine's Docker, which is not restarted: that is for `make soak`."""
    with storming(tmp_path, 7, warm()) as storm:
        storm.blow(15)
    assert storm.compared > 1
    assert storm.ground.events["create 201"] > 0
