"""Who must not get in does not, and who may gets to the right place."""

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.pipe_parts import key_pair
from tests.routes.ground import SSHD_PORT, USER, Client, Keys, Router, Sshd, run, sshd_container, until


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def write(router: Router, text: str) -> None:
    """Published as a careful person would: whole, and closed to others."""
    file = router.directory / "new"
    file.write_bytes(text.encode())
    file.chmod(0o600)
    file.rename(router.config)


def handwritten(sshd: Sshd, keys: Keys, name: str = USER, /, **more: str) -> str:
    """A pipe in block style with the fields that SSHPiper's manual shows."""
    source = {"username": name, "authorized_keys_data": encoded(keys.public)}
    target = {
        "host": f"{sshd.host}:{SSHD_PORT}",
        "username": "user1",
        "private_key_data": encoded(sshd.private_key),
        "known_hosts_data": encoded(f"[{sshd.host}]:{SSHD_PORT} {sshd.host_key}"),
    }
    for field, value in more.items():
        fields = source if field.startswith(("authorized_keys", "username_regex")) else target
        fields.pop(f"{field}_data", None)
        fields[field] = value
    above = [f"    {field}: {value}" for field, value in source.items() if field != "username"]
    below = [f"    {field}: {value}" for field, value in target.items()]
    return "\n".join(["- from:", f"  - username: '{name}'", *above, "  to:", *below]) + "\n"


def refused(client: Client, *options: str) -> "subprocess.CompletedProcess[bytes]":
    done = client.run(*options, "--", "echo inside")
    assert done.returncode == 255
    assert b"inside" not in done.stdout
    return done


@pytest.fixture
def stranger(client: Client, tmp_path: Path) -> Client:
    """Somebody who knows the user's name and has another key."""
    return Client(client.router, client.sshd, tmp_path, Keys.make(tmp_path / "strange"))


def test_another_key_is_refused(stranger: Client) -> None:
    assert b"Permission denied (publickey)" in refused(stranger).stderr


def test_an_unknown_user_is_refused(client: Client, tmp_path: Path) -> None:
    nobody = Client(client.router, client.sshd, tmp_path, client.keys, "nobody")
    assert b"Permission denied" in refused(nobody).stderr


def test_a_user_is_known_by_the_exact_name(client: Client, tmp_path: Path) -> None:
    refused(Client(client.router, client.sshd, tmp_path, client.keys, "User123"))


@pytest.mark.parametrize("method", ["none", "password", "keyboard-interactive", "hostbased"])
def test_nothing_but_a_key_is_accepted(client: Client, method: str) -> None:
    done = refused(client, "-o", f"PreferredAuthentications={method}")
    assert b"Permission denied (publickey)" in done.stderr


def test_another_user_s_key_is_refused(client: Client, tmp_path: Path) -> None:
    other = Keys.make(tmp_path / "other")
    client.router.pipes.add(client.sshd.pipe("user2", [other.public]))
    refused(Client(client.router, client.sshd, tmp_path, other, USER))
    refused(Client(client.router, client.sshd, tmp_path, client.keys, "user2"))


def test_each_user_gets_to_the_own_account(client: Client, tmp_path: Path) -> None:
    other = Keys.make(tmp_path / "other")
    client.router.pipes.add(client.sshd.pipe("user2", [other.public]))
    assert client.output("echo $USER") == "user123\n"
    assert Client(client.router, client.sshd, tmp_path, other, "user2").output("echo $USER") == "user2\n"


def test_the_right_key_may_come_after_wrong_ones(client: Client, tmp_path: Path) -> None:
    wrong = [Keys.make(tmp_path / f"wrong{number}") for number in range(4)]
    first = [part for keys in wrong for part in ("-i", str(keys.private))]
    assert client.output(*first, "--", "echo there") == "there\n"


def test_any_of_a_user_s_keys_fits(client: Client, tmp_path: Path) -> None:
    second = Keys.make(tmp_path / "second")
    pipe = client.sshd.pipe(USER, [client.keys.public, second.public])
    client.router.pipes.replace(lambda: [pipe])
    assert Client(client.router, client.sshd, tmp_path, second).output("echo there") == "there\n"


def test_a_removed_pipe_lets_nobody_in(client: Client) -> None:
    client.router.pipes.remove(f"session-of-{USER}")
    refused(client)


def test_a_new_pipe_serves_at_once(client: Client, tmp_path: Path) -> None:
    for number in range(3):
        client.router.pipes.add(client.sshd.pipe(f"user{number}", [client.keys.public]))
        user = Client(client.router, client.sshd, tmp_path, client.keys, f"user{number}")
        assert user.output("echo there") == "there\n"


def test_a_thousand_pipes_are_served(client: Client) -> None:
    other = [client.sshd.pipe(f"other{number}", [key_pair()[1]]) for number in range(999)]
    ours = client.sshd.pipe(USER, [client.keys.public])
    client.router.pipes.replace(lambda: [*other, ours])
    assert client.output("echo there") == "there\n"


def test_a_session_that_has_gone_is_told_in_time(client: Client) -> None:
    pipe = client.sshd.pipe(USER, [client.keys.public], port=9)
    client.router.pipes.replace(lambda: [pipe])
    refused(client)


def test_a_changed_host_key_of_the_session_is_refused(client: Client) -> None:
    pipe = client.sshd.pipe(USER, [client.keys.public], host_key=key_pair()[1])
    client.router.pipes.replace(lambda: [pipe])
    refused(client)


def test_a_session_that_does_not_know_the_router_is_refused(client: Client) -> None:
    pipe = client.sshd.pipe(USER, [client.keys.public], private_key=key_pair()[0])
    client.router.pipes.replace(lambda: [pipe])
    refused(client)


def test_a_container_that_is_killed_ends_the_connection(
    router: Router, keys: Keys, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("killed")
    with sshd_container(directory, [USER], []) as sshd:
        pipe = sshd.pipe(USER, [keys.public])
        router.pipes.replace(lambda: [pipe])
        with Client(router, sshd, tmp_path, keys).running("echo ready; sleep 60") as ssh:
            assert ssh.stdout
            assert ssh.stdout.readline() == b"ready\n"
            run("docker", "kill", sshd.container)
            assert ssh.wait(timeout=10) == 255


# The file as a person writes it.


def test_a_handwritten_pipe_is_served(client: Client) -> None:
    write(client.router, f'version: "1.0"\npipes:\n{handwritten(client.sshd, client.keys)}')
    assert client.output("echo $USER") == "user1\n"


def test_a_handwritten_pipe_wins_over_the_gateway_s(client: Client) -> None:
    write(client.router, f"# by hand\npipes:\n{handwritten(client.sshd, client.keys)}")
    client.router.pipes.add(client.sshd.pipe(USER, [client.keys.public]))
    assert client.output("echo $USER") == "user1\n"


def test_handwritten_pipes_and_the_gateway_s_are_served_side_by_side(client: Client, tmp_path: Path) -> None:
    write(client.router, f"pipes:\r\n{handwritten(client.sshd, client.keys, 'hand')}".replace("\n", "\r\n"))
    client.router.pipes.add(client.sshd.pipe(USER, [client.keys.public]))
    assert client.output("echo $USER") == "user123\n"
    assert Client(client.router, client.sshd, tmp_path, client.keys, "hand").output("echo $USER") == "user1\n"


def test_a_handwritten_pipe_may_name_files(client: Client) -> None:
    directory = client.router.directory
    (directory / "keys").write_text(f"# the user's\n{client.keys.public} laptop\n")
    (directory / "known").write_text(f"[{client.sshd.host}]:{SSHD_PORT} {client.sshd.host_key}\n")
    (directory / f"{USER}.key").write_text(client.sshd.private_key)
    files = {"authorized_keys": "keys", "known_hosts": str(directory / "known")}
    files["private_key"] = "$DOWNSTREAM_USER.key"
    write(client.router, "pipes:\n" + handwritten(client.sshd, client.keys, **files))
    assert client.output("echo $USER") == "user1\n"


@pytest.mark.parametrize(
    ("pattern", "upstream", "account"),
    [("^user(.)23$", "user$1", "user1"), ("^u.*", "user2", "user2"), (".*", "user3", "user3")],
)
def test_a_handwritten_pipe_may_match_a_pattern(
    client: Client, pattern: str, upstream: str, account: str
) -> None:
    pipe = handwritten(client.sshd, client.keys, pattern, username_regex_match="true", username=upstream)
    write(client.router, "pipes:\n" + pipe)
    assert client.output("echo $USER") == f"{account}\n"


def broken(client: Client) -> str:
    return client.router.config.read_text() + "\n  broken: [\n"


@pytest.mark.parametrize(
    "damage",
    [
        broken,
        lambda client: client.router.config.read_text() * 2,
        lambda client: "pipes: 7\n",
        lambda client: client.router.config.read_text() + "- 7\n",
        lambda client: "",
    ],
    ids=["broken", "twice", "no list", "no mapping", "empty"],
)
def test_a_damaged_file_lets_nobody_in_until_it_is_mended(
    client: Client, damage: Callable[[Client], str]
) -> None:
    good = client.router.config.read_text()
    write(client.router, damage(client))
    refused(client)
    write(client.router, good)
    assert client.output("echo there") == "there\n"


def test_an_open_file_lets_nobody_in_until_it_is_closed(client: Client) -> None:
    client.router.config.chmod(0o640)
    refused(client)
    client.router.config.chmod(0o600)
    assert client.output("echo there") == "there\n"


def test_a_missing_file_lets_nobody_in(client: Client) -> None:
    client.router.config.unlink()
    refused(client)


def test_a_hundred_logins_at_once_all_get_in(client: Client) -> None:
    logins = [
        subprocess.Popen(client.ssh("--", f"echo {number}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(100)
    ]
    answers = [login.communicate(timeout=90) for login in logins]
    assert answers == [(b"%d\n" % number, b"") for number in range(100)]


def test_a_probe_of_the_port_disturbs_nobody(client: Client) -> None:
    for _ in range(20):
        run("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{client.router.port}; printf 'GET /\\r\\n' >&3")
    until(lambda: client.run("true").returncode == 0)
