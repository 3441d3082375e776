"""`gateway create`, `sessions`, `show`, `extend`, `end` and `completion`, as administrators type them."""

import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import gateway
from gateway.client import Client, Refused
from gateway.domain.permissions import Role
from gateway.errors import GatewayError, Unavailable
from gateway.services.tokens import Tokens
from tests.conftest import Bench
from tests.fakes.containers import FakeInside


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def run(url: str, command: str, *arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(gateway, [command, "--url", url, *arguments], **options)


def process(url: str, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from gateway.cli import main; main()", *arguments, "--url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def live(bench: Bench, user_id: str) -> Any:
    sessions = bench.client.get("/sessions").json["sessions"]
    return next(session for session in sessions if session["user_id"] == user_id)


def local(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M %Z}"


def test_create_prints_the_line_to_connect_with(
    bench: Bench, url: str, public_key: str, tmp_path: Path
) -> None:
    (tmp_path / "user123.pub").write_text(f"# of the laptop\n{public_key}\n")
    done = run(
        url,
        "create",
        "user123",
        "--profile",
        "3g.20gb",
        "--ttl",
        "4h",
        "--key",
        str(tmp_path / "user123.pub"),
    )
    session = live(bench, "user123")
    assert done.output.splitlines() == [
        f"user123 has a 3g.20gb until {local(session['expires_at'])}.",
        "Connect with:  ssh user123@ssh.gw",
    ]
    lease = datetime.fromisoformat(session["expires_at"]) - datetime.fromisoformat(session["created_at"])
    assert lease == timedelta(hours=4)
    with bench.database.read() as rows:
        assert rows.live(session["session_id"]).public_keys == [public_key.rpartition(" ")[0]]


def test_a_private_key_that_the_gateway_made_is_kept_in_a_file(bench: Bench, url: str) -> None:
    done = run(url, "create", "user123")
    assert "Connect with:  ssh -i user123.key user123@ssh.gw" in done.output
    key = Path("user123.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert "PRIVATE KEY" not in done.output


def test_a_private_key_is_printed_rather_than_lost_or_written_over_another(bench: Bench, url: str) -> None:
    Path("user123.key").write_text("another key")
    done = run(url, "create", "user123")
    assert done.exit_code == 0
    assert "BEGIN OPENSSH PRIVATE KEY" in done.output
    assert Path("user123.key").read_text() == "another key"


def test_scripts_get_the_answer_of_the_api(bench: Bench, url: str) -> None:
    made = json.loads(run(url, "create", "user123", "--json").output)
    assert made.pop("ssh_private_key")
    assert made == live(bench, "user123")
    assert json.loads(run(url, "sessions", "--json").output) == bench.client.get("/sessions").json
    assert json.loads(run(url, "show", "user123", "--json").output) == made
    extended = json.loads(run(url, "extend", "user123", "1h", "--json").output)
    assert extended == live(bench, "user123")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no key"),
        ("# nothing\n\n", "no key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", ".pub"),
        (b"\xff\xfe\x00", "not a file of public keys"),
    ],
)
def test_a_file_without_public_keys_opens_no_session_and_replaces_no_key(
    bench: Bench, url: str, public_key: str, content: str | bytes, problem: str
) -> None:
    bench.client.put("/users/user123/keys", json={"ssh_public_keys": [public_key]})
    Path("keys").write_bytes(content if isinstance(content, bytes) else content.encode())
    for arguments in (["create", "user123", "--key", "keys"], ["keys", "user123", "keys"]):
        done = run(url, *arguments)
        assert done.exit_code == 2
        assert problem in done.output
    assert bench.leftovers()["rows"] == []
    assert len(bench.client.get("/users/user123/keys").json["ssh_public_keys"]) == 1


def test_a_key_that_the_gateway_refuses_is_named_with_what_is_wrong(url: str) -> None:
    Path("keys").write_text("ssh-ed25519 AAAA damaged\n")
    for arguments in (["create", "user123", "--key", "keys"], ["keys", "user123", "keys"]):
        done = process(url, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "Key 1: the key's data is damaged" in done.stderr


def test_sessions_are_a_table_with_the_gpu_and_the_latest_end(bench: Bench, url: str) -> None:
    run(url, "create", "user123", "--profile", "3g.20gb", "--ttl", "2h")
    bench.clock.advance(seconds=1)
    run(url, "create", "user456", "--ttl", "7d")
    heading, first, second = run(url, "sessions").output.splitlines()
    assert heading.split("  ")[0] == "USER"
    assert first.split()[:4] == ["user123", "3g.20gb", "0", "active"]
    assert first.split()[4] in ("1:59", "2:00")
    assert local(live(bench, "user123")["max_expires_at"]) in first
    assert second.split()[-1] == "-"


def test_sessions_are_listed_although_the_driver_does_not_answer(bench: Bench, url: str) -> None:
    run(url, "create", "user123")
    bench.gpus.fail("list", Unavailable("no driver"))
    assert run(url, "sessions").output.splitlines()[1].split()[:3] == ["user123", "1g.5gb", "-"]


def test_a_name_and_an_id_stand_for_the_same_session(bench: Bench, url: str) -> None:
    run(url, "create", "user123", "--profile", "3g.20gb")
    session = live(bench, "user123")
    shown = run(url, "show", "user123")
    assert shown.output == run(url, "show", session["session_id"]).output
    for fact in ("3g.20gb on GPU 0", session["gpu_uuid"], "active", "ssh user123@ssh.gw"):
        assert fact in shown.output
    assert f"until {local(session['expires_at'])}" in shown.output
    assert f"can be extended to {local(session['max_expires_at'])}" in shown.output


@pytest.mark.parametrize("command", [["show"], ["extend", "--max"], ["end", "--yes"]])
def test_a_name_without_a_session_says_where_to_look(url: str, command: list[str]) -> None:
    done = run(url, *command, "user123")
    assert isinstance(done.exception, GatewayError)
    assert "gateway sessions" in str(done.exception)
    assert "user123" in str(done.exception)


def test_a_session_that_has_ended_says_why(bench: Bench, url: str) -> None:
    run(url, "create", "user123")
    id = live(bench, "user123")["session_id"]
    bench.client.delete(f"/sessions/{id}")
    done = run(url, "show", id)
    assert isinstance(done.exception, Refused)
    assert (done.exception.status, done.exception.problem["reason"]) == (410, "deleted")


@pytest.mark.parametrize(("arguments", "minutes"), [(["2h"], 120), (["1d"], 1440), (["1h30m"], 90)])
def test_an_extension_is_given_as_people_write_it(
    bench: Bench, url: str, arguments: list[str], minutes: int
) -> None:
    run(url, "create", "user123")
    before = live(bench, "user123")
    done = run(url, "extend", "user123", *arguments)
    after = live(bench, "user123")
    assert after["extended_minutes"] == minutes
    assert done.output.startswith(f"user123: until {local(after['expires_at'])}, ")
    assert after["expires_at"] > before["expires_at"]


def test_an_extension_until_a_time_reaches_it(bench: Bench, url: str) -> None:
    run(url, "create", "user123")
    until = (datetime.now() + timedelta(hours=5)).replace(second=0, microsecond=0)
    assert run(url, "extend", "user123", "--until", f"{until:%Y-%m-%dT%H:%M}").exit_code == 0
    ends = datetime.fromisoformat(live(bench, "user123")["expires_at"])
    assert timedelta() <= ends - until.astimezone() < timedelta(minutes=1)
    until += timedelta(hours=1)
    assert run(url, "extend", "user123", "--until", f"{until:%H:%M}").exit_code == 0
    ends = datetime.fromisoformat(live(bench, "user123")["expires_at"])
    assert timedelta() <= ends - until.astimezone() < timedelta(minutes=1)


def test_an_extension_to_an_earlier_time_is_refused(bench: Bench, url: str) -> None:
    run(url, "create", "user123", "--ttl", "2h")
    soon = datetime.now() + timedelta(minutes=30)
    done = run(url, "extend", "user123", "--until", f"{soon:%Y-%m-%dT%H:%M}")
    assert "already" in str(done.exception)
    assert live(bench, "user123")["extended_minutes"] == 0


def test_an_operator_creates_beyond_the_policy(bench: Bench, url: str) -> None:
    bench.client.put("/policies/default", json={"max_ttl_minutes": 60})
    refused = run(url, "create", "user123", "--ttl", "2h")
    assert isinstance(refused.exception, Refused)
    assert run(url, "create", "user123", "--ttl", "2h", "--override").exit_code == 0


def test_an_extension_as_far_as_possible_and_beyond(bench: Bench, url: str) -> None:
    run(url, "create", "user123")
    latest = live(bench, "user123")["max_expires_at"]
    assert run(url, "extend", "user123", "--max").exit_code == 0
    assert live(bench, "user123")["expires_at"] == latest
    refused = run(url, "extend", "user123", "1h")
    assert isinstance(refused.exception, Refused)
    assert refused.exception.problem["rule"] == "max_lease_minutes"
    assert run(url, "extend", "user123", "1h", "--override").exit_code == 0
    assert live(bench, "user123")["expires_at"] > latest


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["2h", "--max"],
        ["2h", "--until", "18:00"],
        ["--until", "18:00", "--max"],
        ["2x"],
        ["--until", "25:00"],
        ["--until", "tomorrow"],
    ],
)
def test_an_extension_that_is_not_clear_is_a_wrong_command(
    bench: Bench, url: str, arguments: list[str]
) -> None:
    run(url, "create", "user123")
    assert run(url, "extend", "user123", *arguments).exit_code == 2
    assert live(bench, "user123")["extended_minutes"] == 0


def test_end_does_not_kill_what_runs_without_being_told_so(bench: Bench, url: str) -> None:
    run(url, "create", "user123")
    asked = run(url, "end", "user123")
    assert (asked.exit_code, "--yes" in asked.output) == (2, True)
    assert live(bench, "user123")["status"] == "active"
    done = run(url, "end", "user123", "--yes")
    assert (done.exit_code, done.output) == (0, "The session of user123 has ended.\n")
    assert bench.leftovers()["rows"] == []


@pytest.mark.parametrize(("answer", "ended"), [("n", False), ("y", True)])
def test_end_asks_on_a_terminal(bench: Bench, url: str, answer: str, ended: bool) -> None:
    run(url, "create", "user123")
    shown = on_a_terminal(url, "end", "user123", typed=f"{answer}\n")
    assert "What runs in it is killed" in shown
    assert (bench.leftovers()["rows"] == []) == ended


def test_an_end_with_a_step_that_is_repeated_says_so(bench: Bench, url: str) -> None:
    run(url, "create", "user123")
    bench.containers.fail("remove", Unavailable("Docker does not answer."))
    done = run(url, "end", "user123", "--yes")
    assert done.exit_code == 0
    assert "is closing" in done.output
    assert "Docker does not answer." in done.output


def test_a_terminal_shows_that_a_session_is_being_opened(bench: Bench, url: str) -> None:
    shown = on_a_terminal(url, "create", "user123", typed="")
    assert "Opening a session for user123 … 0 s" in shown
    assert "Connect with:" in shown


def test_the_exit_status_says_whether_to_try_again(bench: Bench, url: str) -> None:
    assert process(url, "create", "user123", "--profile", "7g.40gb").returncode == 0
    full = process(url, "create", "user456")
    assert (full.returncode, full.stderr.count("\n")) == (75, 1)
    assert process(url, "create", "user123").returncode == 1
    assert process(url, "create", "user456", "--profile", "9g.90gb").returncode == 1
    assert process(url, "create", "user456", "--ttl", "soon").returncode == 2
    nobody = process("http://127.0.0.1:1", "sessions")
    assert (nobody.returncode, nobody.stderr.count("\n")) == (75, 1)
    for done in (full, nobody):
        assert done.stderr.startswith("gateway: ")


def test_a_server_that_is_no_gateway_is_named_in_one_line() -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b"[1]")

        def log_message(self, *_arguments: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        done = run(f"http://127.0.0.1:{server.server_port}", "sessions")
    finally:
        server.shutdown()
        server.server_close()
    assert "is no gateway" in str(done.exception)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion_script(shell: str) -> None:
    done = CliRunner().invoke(gateway, ["completion", shell])
    assert (done.exit_code, "_GATEWAY_COMPLETE" in done.output) == (0, True)


def complete(words: str, **environment: str) -> list[str]:
    """What bash offers for the last of the words."""
    number = str(len(words.split(" ")) - 1)
    done = subprocess.run(
        [sys.executable, "-c", "from gateway.cli import main; main()"],
        env={**os.environ, "_GATEWAY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": number}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_names_of_users_with_a_session_are_completed(bench: Bench, url: str) -> None:
    for user_id in ("user123", "user456", "zoe"):
        run(url, "create", user_id)
    assert complete("gateway end us", GATEWAY_URL=url) == ["user123", "user456"]
    assert complete(f"gateway show --url {url} z") == ["zoe"]
    assert complete("gateway ext") == ["extend"]
    assert complete("gateway end us", GATEWAY_URL="http://127.0.0.1:1") == []


def on_a_terminal(url: str, *arguments: str, typed: str) -> str:
    """What the command shows on a terminal where `typed` is typed."""
    script = [sys.executable, "-c", "from gateway.cli import main; main()", *arguments, "--url", url]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(script[0], script)
    os.write(terminal, typed.encode())
    shown, deadline = b"", datetime.now(UTC) + timedelta(seconds=60)
    while datetime.now(UTC) < deadline:
        if select.select([terminal], [], [], 1)[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # Linux reports the end of a terminal so
                break
    os.waitpid(pid, 0)
    os.close(terminal)
    return shown.decode()


def test_a_message_is_sent_to_one_session_or_to_all(bench: Bench, url: str) -> None:
    for user_id in ("user123", "user456"):
        run(url, "create", user_id)
        bench.containers.insides[user_id] = FakeInside(terminals=2)
    assert run(url, "message", "user123", "see", "you", "at 18:00").output == "user123: 2 terminals\n"
    assert "see you at 18:00" in bench.containers.insides["user123"].shown[0]
    assert bench.containers.insides["user456"].shown == []
    done = run(url, "message", "--all", "The server is restarted.")
    assert sorted(done.output.splitlines()) == ["user123: 2 terminals", "user456: 2 terminals"]
    assert run(url, "message", "user123", "--clear").output == "user123: taken away\n"
    with bench.database.read() as rows:
        assert sorted(str(row.message) for row in rows.list()) == ["None", "The server is restarted."]


@pytest.mark.parametrize("arguments", [[], ["user123"], ["--all"], ["user123", "hi", "--clear"]])
def test_a_message_without_a_text_is_a_wrong_command(url: str, arguments: list[str]) -> None:
    assert run(url, "message", *arguments).exit_code == 2


@pytest.fixture
def _quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.waiting.POLL_SECONDS", 0.02)


def full(bench: Bench) -> Any:
    body = {"user_id": "ann", "mig_profile": "7g.40gb", "ttl_minutes": 60}
    return bench.client.post("/sessions", json=body).json


@pytest.mark.usefixtures("_quick_polls")
def test_create_waits_in_line_and_shows_the_place_until_the_session_is_open(bench: Bench, url: str) -> None:
    ann = full(bench)

    def free_it() -> None:
        while not bench.client.get("/queue").json["requests"]:
            time.sleep(0.01)
        time.sleep(0.1)
        bench.client.delete(f"/sessions/{ann['session_id']}")

    with bench.gateway.opener.working():
        thread = threading.Thread(target=free_it)
        thread.start()
        done = run(url, "create", "ben", "--profile", "7g.40gb", "--wait", "4h")
        thread.join()
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("The gateway made a key pair. The private key is in ben.key")
    assert lines[1].startswith("1st in line, by ")
    assert "(61 minutes) at the latest" in lines[1]
    assert lines[-2].startswith("ben has a 7g.40gb until ")
    assert lines[-1] == "Connect with:  ssh -i ben.key ben@ssh.gw"


@pytest.mark.usefixtures("_quick_polls")
def test_create_that_gives_up_may_succeed_later(bench: Bench, url: str) -> None:
    full(bench)

    def let_it_pass() -> None:
        while not bench.client.get("/queue").json["requests"]:
            time.sleep(0.01)
        time.sleep(0.1)
        bench.clock.advance(minutes=30)
        bench.gateway.queue.serve()

    thread = threading.Thread(target=let_it_pass)
    thread.start()
    done = process(url, "create", "ben", "--profile", "7g.40gb", "--wait", "30m")
    thread.join()
    assert done.returncode == 75
    assert "1st in line, nothing can be promised before the wait ends" in done.stderr
    assert done.stderr.splitlines()[-1] == "gateway: Nothing became free for ben in time: try again later."


@pytest.mark.parametrize(
    ("command", "asks_first"), [(["show", "ben"], "/sessions"), (["sessions"], "/queue")]
)
def test_a_session_that_opens_between_two_questions_is_shown(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch, command: list[str], asks_first: str
) -> None:
    ann = full(bench)
    bench.client.post("/sessions", json={"user_id": "ben", "mig_profile": "7g.40gb", "wait_minutes": 240})
    ask = Client.ask

    def ask_and_open(self: Client, method: str, path: str, *given: Any) -> Any:
        answer = ask(self, method, path, *given)
        if path.startswith(asks_first):
            monkeypatch.undo()
            bench.client.delete(f"/sessions/{ann['session_id']}")
            for session_id in bench.gateway.queue.serve():
                bench.gateway.queue.open(session_id)
        return answer

    monkeypatch.setattr(Client, "ask", ask_and_open)
    output = run(url, *command).output
    assert "active" in output
    assert output.count("ben") == 1 or command[0] == "show"


def test_the_queue_and_the_sessions_show_who_waits(bench: Bench, url: str) -> None:
    full(bench)
    body = {"user_id": "ben", "mig_profile": "7g.40gb", "wait_minutes": 240}
    ben = bench.client.post("/sessions", json=body).json
    by = f"{datetime.fromisoformat(ben['promised_at']).astimezone():%H:%M}"
    listed = run(url, "queue").output.splitlines()
    headings = "PLACE USER PROFILE PRIORITY PROMISED BY GIVES UP ID"
    assert listed[0].split() == headings.split()
    assert listed[1].split()[:4] == ["1st", "ben", "7g.40gb", "0"]
    assert by in listed[1]
    assert json.loads(run(url, "queue", "--json").output)["requests"][0]["session_id"] == ben["session_id"]
    row = run(url, "sessions").output.splitlines()[2]
    assert row.split()[:5] == ["ben", "7g.40gb", "-", "waiting", "by"]
    assert "1st in line" in row
    assert "1st in line, by" in run(url, "show", "ben").output
    assert "nothing to extend" in str(run(url, "extend", "ben", "2h").exception)


def test_a_place_in_line_is_moved_and_given_up(bench: Bench, url: str) -> None:
    full(bench)
    for user in ("ben", "cem"):
        bench.client.post("/sessions", json={"user_id": user, "mig_profile": "7g.40gb", "wait_minutes": 240})
    done = CliRunner().invoke(gateway, ["queue", "--url", url, "move", "cem", "--priority", "10"])
    assert done.output.startswith("cem is 1st in line, by "), done.output
    assert run(url, "end", "cem", "--yes").output == "cem waits in line no more.\n"
    assert [each["user_id"] for each in bench.client.get("/queue").json["requests"]] == ["ben"]


def test_a_gpu_is_cordoned_from_a_time_on(bench: Bench, url: str) -> None:
    tomorrow = f"{datetime.now() + timedelta(days=1):%Y-%m-%dT%H:%M}"
    done = CliRunner().invoke(gateway, ["gpus", "--url", url, "cordon", "0", "--from", tomorrow])
    assert done.exit_code == 0, done.output
    [gpu] = bench.client.get("/gpus").json["gpus"]
    assert local(gpu["cordoned_from"]).startswith(tomorrow.replace("T", " "))
    assert not gpu["cordoned"]


def test_a_shell_of_another_encoding_gets_every_line(bench: Bench, url: str) -> None:
    bench.client.put("/gpus/0/cordon", json={"reason": "점검 – fan"})
    environ = {**os.environ, "PYTHONIOENCODING": "iso-8859-1"}
    done = process(url, "gpus", env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cordoned: \\uc810\\uac80 \\u2013 fan" in done.stdout


@pytest.mark.parametrize("arguments", [["show", b"\xff"], ["keys", b"\xff"], ["events", "--user", b"\xff"]])
def test_an_argument_that_is_no_text_is_a_wrong_command_in_one_line(url: str, arguments: Any) -> None:
    done = process(url, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no text in the encoding" in done.stderr


def test_an_output_that_cannot_be_written_is_a_failure_in_one_line(url: str) -> None:
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "gpus", "--url", url]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "gateway: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["policy", "list"],
        ["webhook", "list"],
        ["gpus", "cordon", "0"],
        ["queue", "move", "ben", "--priority=3"],
    ],
)
def test_the_gateway_to_call_is_named_before_or_behind_the_subcommand(
    bench: Bench, url: str, arguments: list[str], tmp_path: Path
) -> None:
    full(bench)
    bench.client.post("/sessions", json={"user_id": "ben", "mig_profile": "7g.40gb", "wait_minutes": 60})
    (tmp_path / "token").write_text(Tokens(bench.database, bench.clock).create("admin", Role.ADMIN))
    given = ["--url", url, "--token-file", str(tmp_path / "token")]
    elsewhere = {"GATEWAY_URL": "http://127.0.0.1:1"}
    for command in ([arguments[0], *given, *arguments[1:]], [*arguments, *given]):
        done = CliRunner(env=elsewhere).invoke(gateway, command)
        assert done.exit_code == 0, done.exception
