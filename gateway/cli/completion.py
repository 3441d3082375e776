"""`gateway completion`: the shell completes commands, options, and the names of users with a session."""

import click
from click.shell_completion import CompletionItem, get_completion_class

from gateway.cli.options import client_of
from gateway.errors import GatewayError

_SHELLS = ("bash", "zsh", "fish")
_TIMEOUT_SECONDS = 2.0


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes this command in SHELL.

    For bash, put `eval "$(gateway completion bash)"` into ~/.bashrc.
    """
    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(context.find_root().command, {}, "gateway", "_GATEWAY_COMPLETE").source())


def complete_user(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The users with a live session. A gateway that does not answer completes nothing."""
    try:
        client = client_of(context.params["url"], context.params["token_file"], _TIMEOUT_SECONDS)
        names = sorted(session["user_id"] for session in client.list("/sessions", "sessions"))
    except (GatewayError, KeyError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(begun)]
