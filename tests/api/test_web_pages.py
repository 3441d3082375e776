"""A web page that an administrator visits cannot use the gateway through the browser."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gateway.domain.models import Event
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


def ask(client: FlaskClient, method: str = "GET", path: str = "/sessions", **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.open(path, method=method, headers=named, json={} if method in ("POST", "PUT") else None)


def body(answer: TestResponse) -> dict[str, Any]:
    assert answer.json is not None
    return dict(answer.json)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "a b",
    ],
)
@pytest.mark.parametrize("path", ["/sessions", "/gpus", "/healthz", "/readyz", "/openapi.json", "/nothing"])
def test_a_host_that_is_not_the_gateways_is_refused(bench: Bench, host: str, path: str) -> None:
    """As after DNS rebinding: the page's own name leads to the gateway."""
    answer = ask(bench.client, path=path, Host=host)
    assert (answer.status_code, answer.content_type) == (421, "application/problem+json")
    assert body(answer)["type"] == "/problems/untrusted-host"
    assert "--trusted-hosts" in body(answer)["detail"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]", "ssh.gw", "ssh.gw:8080"]
)
def test_the_gateways_own_names_are_trusted(bench: Bench, host: str) -> None:
    assert ask(bench.client, Host=host).status_code == 200


def test_names_of_the_administrator_are_trusted(bench_of: BenchMaker) -> None:
    client = bench_of(FakeGpus(), trusted_hosts=("gw.lab.example", ".cluster.example")).client
    assert ask(client, Host="gw.lab.example").status_code == 200
    assert ask(client, Host="GW.lab.example:443").status_code == 200
    assert ask(client, Host="a.b.cluster.example").status_code == 200
    assert ask(client, Host="cluster.example.evil").status_code == 421
    assert ask(client, Host="lab.example").status_code == 421


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sessions"),
        ("DELETE", "/sessions/abc-123-def"),
        ("PUT", "/users/user123/keys"),
        ("PUT", "/gpus/0/cordon"),
        ("DELETE", "/gpus/0/cordon"),
    ],
)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(
    bench: Bench, method: str, path: str, headers: dict[str, Any]
) -> None:
    answer = ask(bench.client, method, path, **headers)
    assert (answer.status_code, body(answer)["type"]) == (403, "/problems/foreign-origin")
    with bench.database.read() as rows:
        events: list[Event] = list(rows.events())
    assert events == []


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost"}, {"Sec_Fetch_Site": "same-origin"}])
def test_a_request_of_the_gateways_own_pages_and_of_scripts_passes(
    bench: Bench, headers: dict[str, str]
) -> None:
    assert ask(bench.client, "DELETE", "/gpus/0/cordon", **headers).status_code == 204


@pytest.mark.parametrize("path", ["/sessions", "/healthz", "/nothing", "/openapi.json"])
def test_no_answer_is_stored_or_taken_for_another_type(bench: Bench, path: str) -> None:
    answer = ask(bench.client, path=path)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_api_allows_no_page_to_read_its_answers(bench: Bench) -> None:
    answer = bench.client.get("/sessions", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers
