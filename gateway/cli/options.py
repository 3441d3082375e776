"""Options that several commands share: the gateway's settings, and the gateway that a client calls."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gateway.client import Client, read_token
from gateway.settings import Settings
from gateway.settings.names import flag, variable

Command = Callable[..., None]

as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the response of the API as JSON."
)


def settings_options(*only: str) -> Callable[[Command], Command]:
    """Add a flag for each setting, or for those in `only`. `Settings.load` checks the values."""

    def decorate(command: Command) -> Command:
        for setting in reversed(dataclasses.fields(Settings)):
            if not only or setting.name in only:
                for option in _options(setting):
                    command = option(command)
        return command

    return decorate


def client_options(command: Command) -> Command:
    """Pass the command a `Client` of the chosen gateway as its first argument."""

    @click.option(
        "--url",
        metavar="URL",
        envvar="GATEWAY_URL",
        help=two_lines(
            "Call this gateway: http://HOST:PORT or unix:/PATH.", "GATEWAY_URL; that of the settings"
        ),
    )
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        metavar="PATH",
        envvar="GATEWAY_TOKEN_FILE",
        help=two_lines(
            "Read the API token from this file.", "GATEWAY_TOKEN_FILE; or GATEWAY_TOKEN is the token"
        ),
    )
    @functools.wraps(command)
    def with_client(*arguments: Any, url: str | None, token_file: Path | None, **others: Any) -> None:
        command(client_of(url, token_file), *arguments, **others)

    return with_client


def subcommand(command: Command) -> Command:
    """Pass the command the `Client` of its group. The options of the group may stand here, too."""

    @click.option("--url", "gateway_url", metavar="URL", help="Call this gateway.")
    @click.option(
        "--token-file",
        "token_path",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Read the API token from this file.",
    )
    @click.pass_obj
    @functools.wraps(command)
    def with_client(
        client: Client, /, *arguments: Any, gateway_url: str | None, token_path: Path | None, **others: Any
    ) -> None:
        token = read_token(token_path) if token_path else client.token
        chosen = client.at(gateway_url, token) if gateway_url or token_path else client
        command(chosen, *arguments, **others)

    return with_client


def client_of(url: str | None, token_file: Path | None, timeout_seconds: float = 60) -> Client:
    """Return the client for the values of `client_options`."""
    return Client(url or _api_url(), read_token(token_file), timeout_seconds)


def two_lines(sentence: str, facts: str) -> str:
    """Return the help text of an option. With `\\b`, click does not join and wrap the lines."""
    return f"\b\n{sentence}\n[{facts}]"


def _api_url() -> str:
    """The address from this machine's settings. Only the settings of the address are loaded and checked."""
    names = [variable("listen"), variable("port")]
    return Settings.load({name: os.environ[name] for name in names if name in os.environ}).api_url


def _options(setting: dataclasses.Field[Any]) -> list[Callable[[Command], Command]]:
    explanation = two_lines(setting.metadata["help"], "; ".join(_facts(setting)))
    if not isinstance(setting.default, bool):
        form = setting.metadata["form"]
        return [click.option(flag(setting.name), setting.name, metavar=form, default=None, help=explanation)]
    yes, no = flag(setting.name), "--no-" + flag(setting.name).removeprefix("--")
    return [
        _switch(setting.name, yes, True, hidden=setting.default, help=explanation),
        _switch(setting.name, no, False, hidden=not setting.default, help=explanation),
    ]


def _switch(name: str, flag: str, value: bool, **options: Any) -> Callable[[Command], Command]:
    return click.option(flag, name, is_flag=True, flag_value=value, default=None, type=click.BOOL, **options)


def _facts(setting: dataclasses.Field[Any]) -> list[str]:
    default = setting.default
    if default is dataclasses.MISSING and callable(setting.default_factory):
        default = setting.default_factory()
    shown = setting.metadata["unset"] or (str(default).lower() if isinstance(default, bool) else str(default))
    return [variable(setting.name), *([shown] if default or setting.metadata["unset"] else [])]
