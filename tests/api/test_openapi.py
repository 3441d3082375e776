"""The served OpenAPI document is true: whatever is asked by it is answered by it.

`FUZZ=10000` asks about that often in all; `-s` shows what was answered.
"""

import os
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import negative_data_rejection, positive_data_acceptance
from schemathesis.core.result import Ok

from gateway.repositories.sql.leadership import FileLock
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

_REQUESTS = int(os.environ.get("FUZZ", "700"))
_WITH_SOMETHING_TO_GET_WRONG = 7
_LIVE_AT_MOST = 300  # of what the GPUs below hold, so that a slice is always free


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    bench = bench_of(FakeGpus(["A100-40GB"] * 64))
    reaper = FileLock(bench.settings.state_dir / "reaper.lock")  # or the gateway says that it is not ready
    reaper.acquire()
    reaper.tick()
    reaper.release()
    return bench


@pytest.fixture
def operations(bench: Bench) -> list[Any]:
    document = schemathesis.openapi.from_wsgi("/openapi.json", bench.app)
    return [found.ok() for found in document.get_all_operations() if isinstance(found, Ok)]


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_request_is_answered_as_described(
    bench: Bench, operations: list[Any], mode: GenerationMode
) -> None:
    answered: Counter[int] = Counter()
    asked = 0
    for operation in operations:
        # Where any text is right, in a path, or nothing at all is asked for, nothing can be wrong.
        with suppress(Unsatisfiable):
            ask(bench, operation, mode, answered, _REQUESTS // (2 * len(operations)))
            asked += 1
    print(f"{mode.value}: {sum(answered.values())} requests, {dict(sorted(answered.items()))}")
    assert asked == (len(operations) if mode is GenerationMode.POSITIVE else _WITH_SOMETHING_TO_GET_WRONG)
    assert not [status for status in answered if status >= 500]


def ask(bench: Bench, operation: Any, mode: GenerationMode, answered: Counter[int], times: int) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=times,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def all_of(case: Any) -> None:
        if sum(answered.values()) % 2 and "session_id" in (case.path_parameters or {}):
            case.path_parameters["session_id"] = a_live_one(bench)  # no generator would guess it
        response = case.call()
        # A schema cannot say which text is a public key, or that a profile is one of this host's.
        unfit = [positive_data_acceptance]
        if response.status_code == 413:  # a refusal too, which this check does not know
            unfit.append(negative_data_rejection)
        case.validate_response(response, excluded_checks=unfit)
        answered[response.status_code] += 1
        end_some(bench)

    all_of()


def a_live_one(bench: Bench) -> str:
    with bench.database.read() as rows:
        live = rows.list()
    return live[0].id if live else bench.sessions.open("somebody", timedelta(hours=1)).session.id


def end_some(bench: Bench) -> None:
    with bench.database.read() as rows:
        live = rows.list()
    if len(live) > _LIVE_AT_MOST:
        for session in live:
            bench.sessions.close(session.id)
