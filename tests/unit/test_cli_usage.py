"""What the commands say when they are called in the wrong way."""

import shlex
import sys

import pytest

from gateway.cli import main


def called(line: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit status of `gateway LINE`."""
    monkeypatch.setattr(sys, "argv", ["gateway", *shlex.split(line)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("line", "problem", "command"),
    [
        ("nonsense", "No such command 'nonsense'.", "gateway"),
        ("--nope", "No such option '--nope'.", "gateway"),
        ("create", "Missing argument 'USER'.", "gateway create"),
        ("create ann --ttl soon", "'soon' is not a duration", "gateway create"),
        ("extend ann", "Give a DURATION, or --until, or --max.", "gateway extend"),
        ("token create x --role king", "'king' is not one of 'admin'", "gateway token create"),
        ("token create x --role admin --expires soon", "'soon' is neither days", "gateway token create"),
    ],
)
def test_a_wrong_call_is_one_line_with_the_command_that_explains_it(
    line: str,
    problem: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert called(line, monkeypatch) == 2
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("gateway: ")
    assert problem in said
    assert said.endswith(f" See `{command} --help`.")


@pytest.mark.parametrize("line", ["", "token"])
def test_a_group_without_a_command_lists_its_commands(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(line, monkeypatch) == 2
    assert "Commands:" in capsys.readouterr().err


def test_help_and_version_succeed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not called("create --help", monkeypatch)
    assert not called("--version", monkeypatch)
    assert capsys.readouterr().err == ""


def test_a_command_that_is_interrupted_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gateway.client.Client.list", _interrupted)
    assert called("sessions --url http://localhost:1", monkeypatch) == 1
    assert capsys.readouterr().err.strip() == "gateway: Aborted."


def _interrupted(*_arguments: object, **_options: object) -> None:
    raise KeyboardInterrupt
