"""The help texts of the command line: whole sentences that fit."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from gateway.cli import gateway

_COLUMNS = 80
_MARGIN = 8  # of click's list of commands


def commands(group: click.Group, path: str = "gateway") -> Iterator[tuple[str, click.Command, int]]:
    """Every command with its path and the width that the list of commands leaves for its help."""
    context = click.Context(group)
    names = group.list_commands(context)
    width = _COLUMNS - _MARGIN - max(map(len, names))
    for name in names:
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command, width
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


COMMANDS = {path: (command, width) for path, command, width in commands(gateway)}


@pytest.mark.parametrize("path", COMMANDS)
def test_the_list_of_commands_has_a_whole_sentence_for_each(path: str) -> None:
    command, width = COMMANDS[path]
    first_sentence = (command.help or "").partition("\n")[0]
    assert first_sentence[:1].isupper()
    assert first_sentence.endswith(".")
    assert len(first_sentence) <= width


@pytest.mark.parametrize("path", COMMANDS)
def test_each_option_is_explained_by_a_sentence(path: str) -> None:
    command, _ = COMMANDS[path]
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            explanation = (option.help or "").removeprefix("\b\n").partition("\n")[0]
            assert explanation, option.name
            assert not explanation[0].islower(), option.name
            assert explanation.endswith("."), option.name


@pytest.mark.parametrize("path", ["gateway", *(path for path in COMMANDS)])
def test_no_line_of_help_is_cut_off(path: str) -> None:
    done = CliRunner(env={"COLUMNS": str(_COLUMNS)}).invoke(gateway, [*path.split()[1:], "--help"])
    assert done.exit_code == 0
    _, *lines = done.output.splitlines()  # the first one, Usage, ends with dots where arguments repeat
    assert not [line for line in lines if line.endswith("...")]
