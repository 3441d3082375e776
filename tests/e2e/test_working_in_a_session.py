"""What people do in a session works, although they can write only to the workspace and to scratch space."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from gateway.repositories.docker.client import Docker
from tests import own
from tests.whole_gateway import Gateway

USER = own.user("user123")

HANGUL = "한글 é"
TERMINALS = (
    "xterm-kitty xterm-ghostty alacritty foot wezterm konsole-256color st-256color putty-256color xterm"
).split()


def login(
    gateway: Gateway, *command: str, terminal: bool = False, typed: str = "", **environment: Any
) -> subprocess.CompletedProcess[str]:
    """As a client whose environment has nothing but `environment`, which it sends as Debian and macOS do."""
    options = ("-o", "SendEnv=LANG LC_* COLORTERM", "-o", "LogLevel=ERROR", *(("-tt",) if terminal else ()))
    ssh = gateway.ssh(USER, *command, options=options)
    kept = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        ssh, env=kept | environment, input=typed, capture_output=True, text=True, timeout=60
    )


def test_files_come_and_go_by_scp(gateway: Gateway, session: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("x = 1")
    options = gateway.ssh(USER)[1:-1]
    options[options.index("-p")] = "-P"
    there = f"{USER}@127.0.0.1:projects/model.py"
    subprocess.run(["scp", *options, tmp_path / "model.py", there], check=True, timeout=30)
    subprocess.run(["scp", *options, there, tmp_path / "back.py"], check=True, timeout=30)
    assert (tmp_path / "back.py").read_text() == "x = 1"


def test_tmux_outlives_the_connection(gateway: Gateway, session: dict[str, Any]) -> None:
    gateway.in_session(USER, "tmux new-session -d -s work 'sleep 60'")
    assert gateway.in_session(USER, "tmux list-sessions -F '#S'").split() == ["work"]


# What clients send: nothing, Debian's and macOS's defaults, and a setting that beats all others.
@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"LANG": "ko_KR.UTF-8"},
        {"LC_CTYPE": "UTF-8"},
        {"LANG": "de_DE.ISO-8859-1", "LC_MESSAGES": "POSIX"},
        {"LC_ALL": "C"},
    ],
)
def test_file_names_of_every_script_are_right_whatever_locale_the_client_has(
    gateway: Gateway, session: dict[str, Any], sent: dict[str, str]
) -> None:
    work = f"rm -rf ~/names && mkdir ~/names && cd ~/names && touch '{HANGUL}'"
    steps = {
        "locale": "locale charmap",
        "ls": "ls",
        "python": "python3 -c 'import os; print(*os.listdir())'",
        "perl": "perl -e 'print glob(q(*)), qq(\\n)'",
        "git": "git init --quiet . && git status --porcelain",
        "vim": "vim -es -u NONE +'redir! > /tmp/vim' +'set encoding?' +'redir END' +q; cat /tmp/vim",
    }
    for program, step in steps.items():
        done = login(gateway, f"{work} && {step}", **dict[str, Any](sent))
        assert (done.returncode, done.stderr) == (0, ""), program
        expected = {"locale": "UTF-8", "vim": "encoding=utf-8"}.get(program, HANGUL.split()[0])
        assert expected in done.stdout, program


def test_file_names_of_every_script_are_right_on_a_terminal_and_in_tmux(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    gateway.in_session(USER, f"mkdir -p ~/names && touch ~/names/'{HANGUL}'")
    shown = login(gateway, "ls --color=never ~/names", terminal=True, LANG="ko_KR.UTF-8", TERM="xterm")
    assert HANGUL in shown.stdout
    pane = "tmux -L names new-session -d 'ls ~/names; sleep 60' && sleep 1 && tmux -L names capture-pane -p"
    assert HANGUL in login(gateway, pane, LANG="ko_KR.UTF-8").stdout


@pytest.mark.parametrize("terminal", TERMINALS)
def test_programs_know_the_terminals_of_today(
    gateway: Gateway, session: dict[str, Any], terminal: str
) -> None:
    done = login(gateway, "clear && echo known: $TERM $(tput colors)", terminal=True, TERM=terminal)
    assert done.returncode == 0, done.stdout
    name, colours = done.stdout.rpartition("known:")[2].split()
    assert (name, int(colours) >= 8) == (terminal, True)
    tmux = login(
        gateway, "tmux -L new new-session 'echo it runs > /tmp/tmux-ran'", terminal=True, TERM=terminal
    )
    assert tmux.returncode == 0, tmux.stdout
    assert gateway.in_session(USER, "cat /tmp/tmux-ran; rm /tmp/tmux-ran") == "it runs\n"


@pytest.mark.parametrize("command", [(), ("printf 'TERM=%s\\n' $TERM",)])
def test_an_unknown_terminal_is_taken_for_an_xterm_with_256_colours(
    gateway: Gateway, session: dict[str, Any], command: tuple[str, ...]
) -> None:
    typed = "" if command else "printf 'TERM=%s\\n' $TERM; exit\n"
    done = login(gateway, *command, terminal=True, typed=typed, TERM="terminal-of-2040")
    assert "TERM=xterm-256color" in done.stdout


def test_a_terminal_that_the_user_has_described_is_kept(gateway: Gateway, session: dict[str, Any]) -> None:
    gateway.in_session(USER, "echo 'own-terminal|mine, use=xterm,' | tic -x -o ~/.terminfo -")
    done = login(gateway, "echo $TERM; tput cols", terminal=True, TERM="own-terminal")
    assert done.stdout.split()[0] == "own-terminal"


def test_ones_own_programs_are_found_in_commands_and_in_every_kind_of_shell(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    gateway.in_session(
        USER,
        "mkdir -p ~/.local/bin && printf '#!/bin/sh\\necho found by $0\\n' > ~/.local/bin/own-program"
        " && chmod +x ~/.local/bin/own-program",
    )
    found = f"found by /home/{USER}/.local/bin/own-program"
    for command in ("own-program", "bash -lc own-program", "bash -ic own-program", "sh -c own-program"):
        assert found in login(gateway, command).stdout, command
    assert found in login(gateway, terminal=True, typed="own-program; exit\n", TERM="xterm").stdout
    assert found in login(gateway, typed="own-program\n").stdout
    window = "tmux -L path new-session -d && tmux -L path send-keys own-program Enter && sleep 1"
    assert found in login(gateway, f"{window} && tmux -L path capture-pane -p").stdout


def test_packages_are_installed_into_the_home_directory_and_into_a_virtual_environment(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    """The package is made here, because the tests have no package index."""
    wheel = gateway.directory / f"workspaces/{USER}/own_package-1-py3-none-any.whl"
    make_wheel(wheel)
    options = f"--quiet --no-index --disable-pip-version-check ~/{wheel.name}"
    gateway.in_session(USER, f"pip install --user {options}")
    assert gateway.in_session(USER, "own-command").startswith(f"/home/{USER}/.local/lib/python3")
    gateway.in_session(USER, f"python3 -m venv ~/env && ~/env/bin/pip install {options}")
    assert gateway.in_session(USER, "~/env/bin/own-command").startswith(f"/home/{USER}/env/lib/python3")


def make_wheel(path: Path) -> None:
    """A package whose command prints where it lies."""
    about = "own_package-1.dist-info"
    with ZipFile(path, "w") as wheel:
        wheel.writestr("own_package.py", "def main():\n    print(__file__)\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: own-package\nVersion: 1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/entry_points.txt", "[console_scripts]\nown-command = own_package:main\n")
        wheel.writestr(f"{about}/RECORD", "")


def test_what_a_researcher_types_first_is_there(gateway: Gateway, session: dict[str, Any]) -> None:
    wanted = "nano vim htop nvtop wget curl unzip make gcc g++ git tmux rsync less python3 pip ps".split()
    found = gateway.in_session(USER, f"for name in {' '.join(wanted)}; do command -v $name; done")
    assert [Path(line).name for line in found.splitlines()] == wanted
    source = "#include <Python.h>\\nint main() { return Py_Version == 0; }\\n"
    build = (
        "gcc $(python3-config --includes) /tmp/a.c $(python3-config --embed --ldflags) -o /tmp/a && /tmp/a"
    )
    gateway.in_session(USER, f"printf '{source}' > /tmp/a.c && {build}")


def test_programs_do_not_ignore_interrupts(gateway: Gateway, session: dict[str, Any]) -> None:
    """A shell without job control makes its background processes ignore both, and sshd is one of them."""
    ignored = int(login(gateway, "grep SigIgn /proc/self/status").stdout.split()[1], 16)
    assert not ignored & (1 << signal.SIGINT - 1 | 1 << signal.SIGQUIT - 1)


def test_ssh_copy_id_and_the_next_login_explain_that_the_key_is_not_used(
    gateway: Gateway, session: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "laptop"], check=True)
    options = [option for option in gateway.ssh(USER)[3:-1] if option != "-i"]
    options[0] = f"-oIdentityFile={options[0]}"
    done = subprocess.run(
        ["ssh-copy-id", "-f", "-i", tmp_path / "laptop.pub", *options, f"{USER}@127.0.0.1"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    note = "does not read ~/.ssh/authorized_keys"
    assert note in done.stderr
    assert note in login(gateway, terminal=True, typed="exit\n", TERM="xterm").stdout
    gateway.in_session(USER, "rm -r ~/.ssh")
    assert note not in login(gateway, terminal=True, typed="exit\n", TERM="xterm").stdout


# Writes into every descriptor of every process, as whoever forges a line of the log would.
FORGE = """
for descriptor in /proc/[0-9]*/fd/*; do
    printf 'Accepted publickey for root FORGED \\033[2J\\n' > $descriptor
done 2> /dev/null
printf 'FORGED' 2> /dev/null > /dev/console
name=$(printf 'FORGED\\033[2J\\nAccepted publickey')
ssh -p 2222 -o BatchMode=yes -o StrictHostKeyChecking=no -l "$name" 127.0.0.1 true
kill -HUP $(cat /proc/1/task/1/children)
true
"""


def test_the_log_of_a_session_has_sshds_own_lines_and_nothing_of_the_users(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    login(gateway, FORGE)
    container = Docker().client.containers.get(f"{USER}-container")
    log = container.logs().decode()
    assert f"Accepted publickey for {USER}" in log
    assert "\033" not in log
    for line in log.splitlines():
        assert "FORGED" not in line or "nvalid user FORGED\\033[2J\\nAccepted publickey" in line
