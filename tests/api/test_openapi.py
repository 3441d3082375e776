"""The served OpenAPI document is true: every response to a generated request matches it.

`FUZZ=10000` sets the number of requests; `-s` shows the statuses.
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

from gateway.repositories.sql.leadership import FileLeadership
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

_REQUESTS = int(os.environ.get("FUZZ", "700"))
_OPERATIONS_WITH_INVALID_REQUESTS = 21
_MAX_LIVE = 300  # sessions, fewer than the GPUs below hold, so that a placement is always free


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    bench = bench_of(FakeGpus(["A100-40GB"] * 64))
    reaper = FileLeadership(bench.settings.state_dir / "reaper.lock")  # otherwise the gateway is not ready
    reaper.acquire()
    reaper.tick()
    reaper.release()
    return bench


@pytest.fixture
def operations(bench: Bench) -> list[Any]:
    document = schemathesis.openapi.from_wsgi("/openapi.json", bench.app)
    return [found.ok() for found in document.get_all_operations() if isinstance(found, Ok)]


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_response_matches_the_description(
    bench: Bench, operations: list[Any], mode: GenerationMode
) -> None:
    statuses: Counter[int] = Counter()
    fuzzed = 0
    for operation in operations:
        # An operation without parameters, or with a path that accepts any text, has no invalid requests.
        with suppress(Unsatisfiable):
            fuzz(bench, operation, mode, statuses, _REQUESTS // (2 * len(operations)))
            fuzzed += 1
    print(f"{mode.value}: {sum(statuses.values())} requests, {dict(sorted(statuses.items()))}")
    assert fuzzed == (
        len(operations) if mode is GenerationMode.POSITIVE else _OPERATIONS_WITH_INVALID_REQUESTS
    )
    assert not [status for status in statuses if status >= 500]


def test_each_operation_is_described_in_whole_sentences(bench: Bench) -> None:
    paths = bench.client.get("/openapi.json").json["paths"].values()
    operations = [operation for path in paths for operation in path.values()]
    assert len(operations) > 30
    for operation in operations:
        for text in (operation["summary"], operation.get("description", operation["summary"])):
            assert text.endswith("."), text
            assert "\n" not in text


def fuzz(bench: Bench, operation: Any, mode: GenerationMode, statuses: Counter[int], times: int) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=times,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        if sum(statuses.values()) % 2 and "session_id" in (case.path_parameters or {}):
            case.path_parameters["session_id"] = live_session_id(bench)  # no generator would guess it
        response = case.call()
        # A schema cannot say which text is a public key, or which profiles this host has.
        excluded = [positive_data_acceptance]
        if response.status_code == 413:  # this check does not accept 413 as a rejection
            excluded.append(negative_data_rejection)
        case.validate_response(response, excluded_checks=excluded)
        statuses[response.status_code] += 1
        close_some(bench)

    send()


def live_session_id(bench: Bench) -> str:
    with bench.database.read() as rows:
        live = rows.list()
    return live[0].id if live else bench.sessions.open("somebody", timedelta(hours=1)).session.id


def close_some(bench: Bench) -> None:
    with bench.database.read() as rows:
        live = rows.list()
    if len(live) > _MAX_LIVE:
        for session in live:
            bench.sessions.close(session.id)
