"""Everything that is parsed from a request, at the edges of what can be parsed."""

from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Bench

QUERY = ["since", "after", "limit", "session_id", "user_id"]
PATHS = ["/sessions/{}", "/sessions/{}/events", "/users/{}/keys", "/gpus/fit?profile={}"]
ALLOWED = {200, 404, 410, 422}
EACH_EXAMPLE_ALONE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.mark.parametrize(
    "since",
    [
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2025-02-30T00:00:00Z",
        "٢٠٢٥-01-01T00:00:00Z",
    ],
)
def test_a_time_at_the_edge_is_answered_as_a_time_or_as_a_mistake(bench: Bench, since: str) -> None:
    answer = bench.client.get("/events", query_string={"since": since})
    assert answer.status_code in (200, 422), answer.json


@pytest.mark.parametrize("index", ["١", "０", "1_0", "+1", " 1", "0x1", "1" * 30])
def test_a_gpu_is_numbered_in_ascii_digits(bench: Bench, index: str) -> None:
    assert bench.client.delete(f"/gpus/{quote(index)}/cordon").status_code == 404


@pytest.mark.parametrize("number", ["١٠", "1_0", " 5", "+5", "5.0", "1e1", "", "9" * 40, "-1"])
@pytest.mark.parametrize("name", ["limit", "after"])
def test_a_number_in_a_query_is_written_in_ascii_digits(bench: Bench, name: str, number: str) -> None:
    assert bench.client.get("/events", query_string={name: number}).status_code == 422


@pytest.mark.parametrize("path", ["/sessions/%00", "/sessions/a%00b/events", "/users/a%00b/keys"])
def test_nul_in_a_path_names_nothing(bench: Bench, path: str) -> None:
    assert bench.client.get(path).status_code in (404, 422)


def test_a_cordon_of_unknown_length_keeps_its_reason(bench: Bench) -> None:
    """As a client sends it that does not know the length before: without a Content-Length."""
    answer = bench.client.put(
        "/gpus/0/cordon",
        data=b'{"reason": "a loud fan"}',
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "", "wsgi.input_terminated": True},
    )
    assert answer.status_code == 204
    assert bench.client.get("/gpus").json["gpus"][0]["reason"] == "cordoned: a loud fan"


def test_a_cordon_with_a_body_that_is_no_json_is_refused(bench: Bench) -> None:
    answer = bench.client.put("/gpus/0/cordon", data=b"not json", content_type="application/json")
    assert answer.status_code == 400


@EACH_EXAMPLE_ALONE
@given(query=st.dictionaries(st.sampled_from(QUERY), st.text()))
def test_no_query_of_events_is_a_failure_of_the_gateway(bench: Bench, query: dict[str, str]) -> None:
    encoded = "&".join(f"{name}={quote(value, errors='replace')}" for name, value in query.items())
    assert bench.client.get(f"/events?{encoded}").status_code in ALLOWED


@EACH_EXAMPLE_ALONE
@given(segment=st.text(min_size=1, max_size=40))
@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_a_failure_of_the_gateway(bench: Bench, path: str, segment: str) -> None:
    answer = bench.client.get(path.format(quote(segment, safe="", errors="replace")))
    assert answer.status_code in ALLOWED | {308, 405}
