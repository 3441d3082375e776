"""Options that several commands have: the gateway's settings, and which gateway to ask."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gateway.client import Client, read_token
from gateway.settings import Settings

Command = Callable[..., None]


def settings_options(*only: str) -> Callable[[Command], Command]:
    """A flag for each setting (or for those named), without a default of its own: `Settings.load` decides."""

    def decorate(command: Command) -> Command:
        for setting in reversed(dataclasses.fields(Settings)):
            if not only or setting.name in only:
                command = click.option(_flag(setting), **_option(setting))(command)
        return command

    return decorate


def client_options(command: Command) -> Command:
    """Gives the command, as its first argument, a `Client` of the gateway that is to be asked."""

    @click.option(
        "--url",
        default="http://127.0.0.1:8080",
        envvar="GATEWAY_URL",
        help="the gateway to ask, or unix:/PATH of its socket [GATEWAY_URL; http://127.0.0.1:8080]",
    )
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        envvar="GATEWAY_TOKEN_FILE",
        help="file with the API token, where GATEWAY_TOKEN does not hold it [GATEWAY_TOKEN_FILE]",
    )
    @functools.wraps(command)
    def with_client(*arguments: Any, url: str, token_file: Path | None, **others: Any) -> None:
        command(Client(url, read_token(token_file)), *arguments, **others)

    return with_client


def _flag(setting: dataclasses.Field[Any]) -> str:
    name = setting.name.replace("_", "-")
    return f"--{name}/--no-{name}" if setting.default is True else f"--{name}"


def _option(setting: dataclasses.Field[Any]) -> dict[str, Any]:
    explanation = f"{setting.metadata['help']} [GATEWAY_{setting.name.upper()}"
    if isinstance(setting.default, bool):
        return {"is_flag": True, "default": None, "help": explanation + "]"}
    default = setting.default
    if default is dataclasses.MISSING and callable(setting.default_factory):
        default = setting.default_factory()
    return {"default": None, "help": f"{explanation}; {default}]" if default else explanation + "]"}
