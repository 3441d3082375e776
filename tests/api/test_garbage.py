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
def test_garbage_is_answered_as_the_clients_fault(
    bench: Bench, method: str, path: str, body: bytes, status: int
) -> None:
    answer = bench.client.open(path, method=method, data=body, content_type="application/json")
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
