"""`gateway policy`: who may have how much."""

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, TextIO
from urllib.parse import quote

import click
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gateway.cli.durations import Duration, minutes
from gateway.cli.options import as_json_option, client_options, subcommand
from gateway.cli.output import print_json, print_lines
from gateway.cli.table import Table
from gateway.client import Client, Refused
from gateway.domain.policies import Rule
from gateway.domain.usage import hours
from gateway.errors import GatewayError

_NOT_FOUND = 404
_Rules = dict[str, Any]


@click.group()
@client_options
@click.pass_context
def policy(context: click.Context, client: Client) -> None:
    """Set what users and groups may have."""
    context.obj = client


@policy.command("set")
@click.argument("name")
@click.option("--profiles", metavar="PROFILE,…", help="Allow these MIG profiles; the first is the default.")
@click.option("--images", metavar="NAME,…", help="Allow these images; the first is the default.")
@click.option("--default-ttl", type=Duration(), metavar="TIME", help="Let a lease last so long by default.")
@click.option("--max-ttl", type=Duration(), metavar="TIME", help="Let a new lease last at most so long.")
@click.option("--max-lease", type=Duration(), metavar="TIME", help="Let a lease grow to this at most.")
@click.option("--gpu-hours", type=click.FloatRange(0), metavar="N", help="Allow so many GPU-hours in 7 days.")
@click.option("--max-wait", type=Duration(), metavar="TIME", help="Let requests wait at most so long.")
@click.option("--no-wait", is_flag=True, help="Let no request wait.")
@click.option("--priority", type=int, metavar="N", help="Give waiting requests this priority.")
@click.option(
    "--idle-minutes", type=click.IntRange(0), metavar="N", help="End unused sessions after N; 0: never."
)
@click.option(
    "--max-keep-hours", type=click.IntRange(0), metavar="N", help="Let a session be kept so long at a time."
)
@click.option("--may-start/--may-not-start", default=None, help="Let the users start sessions, or not.")
@click.option(
    "--unset", type=click.Choice([rule.value for rule in Rule]), multiple=True, help="Take this rule away."
)
@subcommand
def set_one(client: Client, /, name: str, unset: tuple[str, ...], **given: Any) -> None:
    """Set rules of the policy NAME.

    NAME is a group, user:USER for one user, or default for everyone. Rules that are not named stay as they
    are. The policy of a user decides before that of the group, and this one before default.
    """
    if given["no_wait"] and given["max_wait"]:
        raise click.UsageError("Give --max-wait or --no-wait, not both.")
    rules = {**_existing(client, name), **dict(_rules(**given))}
    client.ask("PUT", _path(name), {rule: value for rule, value in rules.items() if rule not in unset})


@policy.command("list")
@as_json_option
@subcommand
def list_all(client: Client, as_json: bool) -> None:
    """List the policies with their rules."""
    response = client.ask("GET", "/policies")
    if as_json:
        print_json(response)
        return
    for found in response["policies"]:
        rules = [
            f"{rule} {_text(value)}" for rule, value in found.items() if rule != "name" and value is not None
        ]
        click.echo(f"{found['name']}: {', '.join(rules) or 'no rules'}")


@policy.command()
@click.argument("user")
@as_json_option
@subcommand
def show(client: Client, user: str, as_json: bool) -> None:
    """Show the rules that hold for USER, and where each comes from."""
    response = client.ask("GET", f"/users/{quote(user, safe='')}/policy")
    if as_json:
        print_json(response)
        return
    rows = [[rule, _text(found["value"]), found["from"]] for rule, found in response["rules"].items()]
    print_lines(Table(["RULE", "VALUE", "FROM"]).lines(rows))
    click.echo(
        f"{hours(response['gpu_hours_of_week'])} GPU-hours count in the last 7 days, promised ones included."
    )


@policy.command()
@click.argument("name")
@subcommand
def remove(client: Client, name: str) -> None:
    """Remove the policy NAME."""
    client.ask("DELETE", _path(name))


@policy.command()
@click.argument("file", type=click.File())
@click.option("--prune", is_flag=True, help="Remove the policies that the file does not have.")
@subcommand
def apply(client: Client, file: TextIO, prune: bool) -> None:
    """Set all policies and groups that a YAML FILE has."""
    wanted = _document(file)
    for name, rules in wanted["policies"].items():
        _put(client, f"policy {name}", _path(name), rules)
    for user, facts in wanted["users"].items():
        _put(client, f"user {user}", f"/users/{quote(user, safe='')}", facts)
    if prune:
        for found in client.ask("GET", "/policies")["policies"]:
            if found["name"] not in wanted["policies"]:
                client.ask("DELETE", _path(found["name"]))
                click.echo(f"policy {found['name']} is removed")


def _put(client: Client, what: str, path: str, facts: Mapping[str, Any] | None) -> None:
    body = {str(rule): value for rule, value in (facts or {}).items()}
    try:
        client.ask("PUT", path, json.loads(json.dumps(body, default=str)))  # a YAML date is none in JSON
    except Refused as refusal:
        raise Refused(refusal.status, {**refusal.problem, "detail": f"{what}: {refusal}"}) from refusal
    click.echo(f"{what} is set")


def _rules(
    profiles: str | None,
    images: str | None,
    default_ttl: timedelta | None,
    max_ttl: timedelta | None,
    max_lease: timedelta | None,
    gpu_hours: float | None,
    max_wait: timedelta | None,
    no_wait: bool,
    may_start: bool | None,
    **numbers: int | None,
) -> Iterator[tuple[str, Any]]:
    lengths = {
        Rule.DEFAULT_TTL_MINUTES: default_ttl,
        Rule.MAX_TTL_MINUTES: max_ttl,
        Rule.MAX_LEASE_MINUTES: max_lease,
        Rule.MAX_WAIT_MINUTES: timedelta(0) if no_wait else max_wait,
    }
    yield from ((rule.value, minutes(length)) for rule, length in lengths.items() if length is not None)
    for rule, names in ((Rule.PROFILES, profiles), (Rule.IMAGES, images)):
        if names is not None:
            yield rule.value, [each.strip() for each in names.split(",") if each.strip()]
    yield from ((rule, number) for rule, number in numbers.items() if number is not None)
    if gpu_hours is not None:
        yield Rule.GPU_HOURS_PER_WEEK.value, gpu_hours
    if may_start is not None:
        yield Rule.MAY_START.value, may_start


def _existing(client: Client, name: str) -> _Rules:
    try:
        return _given(client.ask("GET", _path(name)))
    except Refused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        return {}


def _document(file: TextIO) -> Mapping[str, Mapping[str, Any]]:
    try:
        text = file.read()
        document, as_written = (YAML(typ=typ, pure=True).load(text) for typ in ("safe", "base"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise GatewayError(f"{file.name} is not YAML: {' '.join(str(error).split())}") from error
    parts = document if isinstance(document, dict) else {}
    if not parts or parts.keys() - {"policies", "users"}:
        raise GatewayError(f"{file.name}: give the keys `policies` and `users`, each with names below it.")
    found = {part: parts.get(part) or {} for part in ("policies", "users")}
    names = {part: as_written[part] if found[part] else {} for part in found}
    if not all(_is_table(found[part]) and "<<" not in names[part] for part in found):
        raise GatewayError(f"{file.name}: below `policies` and `users` are names, and below each its rules.")
    # YAML reads the name 007 as the number 7, and a day as a date.
    return {part: dict(zip(map(str, names[part]), found[part].values(), strict=True)) for part in found}


def _is_table(part: object) -> bool:
    return isinstance(part, dict) and all(isinstance(facts, dict | None) for facts in part.values())


def _given(policy: Mapping[str, Any]) -> _Rules:
    return {rule: value for rule, value in policy.items() if rule != "name" and value is not None}


def _path(name: str) -> str:
    return f"/policies/{quote(str(name), safe='')}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else f"{value}"
