"""`gateway usage`: how much of the GPUs each user, group, profile or day had."""

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import click

from gateway.cli.options import as_json_option, client_options
from gateway.cli.output import print_json, print_lines
from gateway.cli.table import Table
from gateway.client import Client
from gateway.domain.usage import By

_DAY = click.DateTime(["%Y-%m-%d"])
_HEADINGS = {By.USER: ["USER", "GROUP"], By.GROUP: ["GROUP"], By.PROFILE: ["PROFILE"], By.DAY: ["DAY"]}


@click.command()
@client_options
@click.option("--since", type=_DAY, metavar="DAY", help="Begin on this day [the 1st of the month].")
@click.option("--until", type=_DAY, metavar="DAY", help="Report until the end of this day [today].")
@click.option(
    "--by",
    type=click.Choice([each.value for each in By]),
    default=By.USER.value,
    help="Print a line for each of these [user].",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@as_json_option
def usage(
    client: Client, since: datetime | None, until: datetime | None, by: str, as_csv: bool, as_json: bool
) -> None:
    """Report sessions, lease hours and GPU-hours.

    A GPU-hour is an hour of a whole GPU. An hour of a 3g slice of an A100, which has 7 slices, is 3/7 of it.
    """
    days = {"since": since, "until": until}
    query = {name: f"{day:%Y-%m-%d}" for name, day in days.items() if day} | {"by": by}
    path = f"/usage?{urlencode(query)}"
    if as_csv:
        click.echo(client.text(path, "text/csv"), nl=False)
        return
    response = client.ask("GET", path)
    if as_json:
        print_json(response)
        return
    table = Table([*_HEADINGS[By(by)], "SESSIONS", "LEASE HOURS", "GPU-HOURS", "IDLE HOURS"])
    rows = [_row(line, By(by)) for line in response["usage"]]
    print_lines(table.lines(rows))


def _row(line: dict[str, Any], by: By) -> list[str]:
    subject = [line["user"] or "-", line["group"] or "-"] if by is By.USER else [line[by.value] or "-"]
    hours = [f"{line[name] / 3600:.2f}" for name in ("lease_seconds", "gpu_seconds", "idle_seconds")]
    return [*subject, str(line["sessions"]), *hours]
