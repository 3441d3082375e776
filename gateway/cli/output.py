"""What the commands print: lines with their colours, or JSON."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import click


def print_lines(lines: Iterable[str]) -> None:
    """Print the lines, with their colours on a terminal unless NO_COLOR is set."""
    for line in lines:
        click.echo(line, color=False if os.environ.get("NO_COLOR") else None)


def print_json(answer: Mapping[str, Any]) -> None:
    click.echo(json.dumps(answer, indent=2))
