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
