import pytest

from tests.conftest import Bench


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/sessions", b"[" * 200_000, 400),
        ("POST", "/sessions", b'{"user_id": "\xff\xfe"}', 400),
        ("POST", "/sessions", b'{"user_id": "abc", "ttl_minutes": ' + b"9" * 5000 + b"}", 400),
        ("POST", "/sessions", b'{"user_id": "a\\u0000b"}', 422),
        ("POST", "/sessions", b'{"user_id": "abc", "mig_profile": "\\ud800"}', 422),
        ("POST", "/sessions", b'{"user_id": "abc", "ttl_minutes": 1e999}', 422),
        ("PUT", "/gpus/0/cordon", b'{"reason": "\\ud800"}', 422),
        ("PUT", "/gpus/" + "9" * 5000 + "/cordon", b"{}", 404),
        ("PUT", "/users/..%2f..%2fetc/keys", b"{}", 404),
    ],
)
def test_an_invalid_request_is_a_client_error(
    bench: Bench, method: str, path: str, body: bytes, status: int
) -> None:
    response = bench.client.open(path, method=method, data=body, content_type="application/json")
    assert (response.status_code, response.content_type) == (status, "application/problem+json")


@pytest.mark.parametrize(
    ("method", "path", "body", "advice"),
    [
        ("POST", "/sessions", b"", "The body is not valid JSON: Expecting value: line 1 column 1 (char 0)."),
        ("POST", "/sessions", b"{'a': 1}", "not valid JSON: Expecting property name enclosed in double"),
        ("POST", "/sessions", b"[]", "The body must be a JSON object"),
        ("POST", "/sessions", b'{"user_id": "ann", "user_id": "ben"}', "the member 'user_id' twice"),
        ("POST", "/sessions", b"{" + b" " * 600_000 + b"}", "A body has at most 512 KiB"),
        ("POST", "/gpus", b"{}", "/gpus does not take POST: use GET."),
        ("PUT", "/sessions", b"{}", "/sessions does not take PUT: use GET or POST."),
        ("GET", "/sesions", b"", "The gateway has no path /sesions. GET /openapi.json describes"),
        ("GET", "/sessions/", b"", "The gateway has no path /sessions/."),
    ],
)
def test_an_invalid_request_is_answered_with_what_to_do(
    bench: Bench, method: str, path: str, body: bytes, advice: str
) -> None:
    response = bench.client.open(path, method=method, data=body, content_type="application/json")
    assert (400 <= response.status_code < 500, response.content_type) == (True, "application/problem+json")
    assert advice in response.json["detail"]


def test_a_body_that_is_not_called_json_is_answered_with_the_header_to_send(bench: Bench) -> None:
    response = bench.client.post("/sessions", data=b"{}")
    assert "with the header `Content-Type: application/json`" in response.json["detail"]


@pytest.mark.parametrize(
    ("query", "advice"),
    [
        ("/events?since=yesterday", "since (Not a time: use one such as 2025-01-17T08:00:00Z)"),
        ("/events?since=2025-01-17T08:00:00+00:00", "since (Not a time: use one such as"),  # `+` is a space
        ("/usage?since=17.1.2025", "since (Not a day: use one such as 2025-01-17)"),
    ],
)
def test_what_is_no_time_is_answered_with_one_that_is(bench: Bench, query: str, advice: str) -> None:
    response = bench.client.get(query)
    assert (response.status_code, advice in response.json["detail"]) == (422, True), response.json["detail"]
