"""What the embedded router makes of a pipe file, without a connection."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.pipe_file import PipeFile
from gateway.router.route import Route
from gateway.router.routes import Routes
from tests.fakes.pipe_parts import pipe


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def blob(line: str) -> bytes:
    return base64.b64decode(line.split()[1])


def route(directory: Path, username: str = "user123", /, **target: Any) -> Route:
    entry = pipe(username="user123").entry()
    source = {**entry["from"][0], "username": username, "username_regex_match": username != "user123"}
    return Route.of({"to": {**entry["to"], **target}}, source, directory)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pipe.yaml"


def publish(path: Path, *pipes: Any, above: str = "") -> None:
    file = PipeFile.parse(f"pipes:\n{above}")
    new = path.with_name("new")
    new.write_text("".join(file.parts(map(file.line, pipes))))
    new.chmod(0o600)
    new.rename(path)


def test_a_handwritten_pipe_has_no_session_so_its_log_lines_name_none(tmp_path: Path) -> None:
    assert route(tmp_path).session_id is None


# `ReplaceAllString`, checked against Go's.
@pytest.mark.parametrize(
    ("pattern", "template", "upstream"),
    [
        ("^user(.*)$", "dev$1", "dev123"),
        ("^user(?P<n>.*)$", "dev-${n}x", "dev-123x"),
        ("^user(.*)$", "dev$1x", "dev"),
        ("^user(.*)$", "$2", "user123"),
        (".*", "root", "root"),
        ("[0-9]", "#", "user###"),
        ("x*", "-", "-u-s-e-r-1-2-3-"),
        ("^u", "", "ser123"),
    ],
)
def test_a_pattern_names_the_upstream_user_as_go_does(
    tmp_path: Path, pattern: str, template: str, upstream: str
) -> None:
    assert route(tmp_path, pattern, username=template).upstream("user123").username == upstream


def test_a_pattern_is_looked_for_anywhere_in_the_name(tmp_path: Path) -> None:
    assert route(tmp_path, "er1").matches("user123")
    assert not route(tmp_path, "^er1").matches("user123")


@pytest.mark.parametrize(
    ("host", "address"),
    [("h", ("h", 22)), ("h:2222", ("h", 2222)), ("[::1]:2222", ("::1", 2222)), ("[::1]", ("::1", 22))],
)
def test_a_host_may_name_its_port(tmp_path: Path, host: str, address: tuple[str, int]) -> None:
    upstream = route(tmp_path, host=host).upstream("user123")
    assert (upstream.host, upstream.port) == address


@pytest.mark.parametrize(
    "target",
    [
        {"host": ""},
        {"host": "h:port"},
        {"private_key_data": ""},
        {"private_key_data": "%"},
        {"known_hosts_data": ""},
        {"known_hosts_data": [7]},
    ],
)
def test_what_must_not_be_served_is_no_route(tmp_path: Path, target: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"its|it has no|base64"):
        route(tmp_path, **target)


def test_known_hosts_of_nothing_but_space_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known_hosts"):
        route(tmp_path, known_hosts_data=encoded(" \n")).upstream("user123")


@pytest.mark.parametrize("username", ["..", "a/b", "."])
def test_a_user_name_does_not_lead_out_of_a_directory(tmp_path: Path, username: str) -> None:
    found = route(tmp_path, ".*", private_key_data=None, private_key="keys/$DOWNSTREAM_USER/key")
    with pytest.raises(ValueError, match="path"):
        found.upstream(username)


def test_every_key_of_a_list_is_admitted_whatever_its_options(tmp_path: Path) -> None:
    [line] = pipe().public_keys
    text = f'# {line}\n\ncommand="true",no-pty {line} a comment\nssh-ed25519 !\n'
    source = {"username": "user123", "authorized_keys_data": [encoded(text)]}
    found = Route.of({"to": pipe().entry()["to"]}, source, tmp_path)
    assert found.admits("user123", blob(line))
    assert not found.admits("user123", b"")


def test_a_remark_is_no_key(tmp_path: Path) -> None:
    [line] = pipe().public_keys
    source = {"username": "user123", "authorized_keys_data": encoded(f"  # {line}\n")}
    found = Route.of({"to": pipe().entry()["to"]}, source, tmp_path)
    assert not found.admits("user123", blob(line))


def test_the_first_pipe_that_matches_wins(path: Path) -> None:
    entry = {**pipe(username="x").entry(), "session_id": "by hand"}
    entry["from"][0].update(username="^user1", username_regex_match=True)
    publish(path, pipe("s1", "user123"), pipe("s2", "other"), above=f"- {json.dumps(entry)}\n")
    routes = Routes(path)
    found = [routes.find(name) for name in ("user123", "other", "nobody")]
    assert [route and route.session_id for route in found] == ["by hand", "s2", None]


def test_a_file_is_read_again_only_when_it_changed(path: Path) -> None:
    publish(path, pipe("s1", "user123"))
    routes = Routes(path)
    first = routes.find("user123")
    assert routes.find("user123") is first
    assert routes.version == 1
    publish(path, pipe("s1", "user123"), pipe("s2", "other"))
    assert routes.find("other") is not None
    assert routes.find("user123") is first  # its line was known
    assert routes.version == 2


def test_a_file_that_cannot_be_read_has_no_routes(path: Path) -> None:
    publish(path, pipe("s1", "user123"))
    routes = Routes(path)
    for mode, readable in ((0o644, False), (0o600, True)):
        path.chmod(mode)
        assert (routes.find("user123") is not None) == readable
        assert routes.readable == readable


def test_no_file_or_an_empty_one_has_no_routes_and_a_list_of_none_is_certain(path: Path) -> None:
    routes = Routes(path)
    assert routes.find("user123") is None
    assert not routes.readable
    publish(path, pipe("s1", "user123"))
    assert routes.find("user123") is not None
    for text, readable in (("", False), ("\n", False), ('version: "1.0"\npipes: []\n', True)):
        path.write_text(text)
        assert routes.find("user123") is None
        assert routes.readable == readable


def test_what_is_wrong_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir()
    routes = Routes(path)
    for _ in range(3):
        routes.refresh()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    os.rmdir(path)
