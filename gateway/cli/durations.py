"""Spans and points of time as arguments of commands."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import click

from gateway.domain import durations
from gateway.domain.lease import MINUTE


class Duration(click.ParamType[timedelta]):
    """`90m`, `2h`, `1d` or `1h30m`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return durations.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class TimeOfDay(click.ParamType[datetime]):
    """`18:00`, the next time that a clock here shows it, or `2025-01-17T18:00`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return _next(value) if len(value) <= 5 else datetime.fromisoformat(value).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time: use one such as 18:00 or 2025-01-17T18:00.", param, ctx)


class Expiry(click.ParamType[datetime]):
    """`30d` from now, or a day such as `2026-12-31`, until its end in UTC."""

    name = "expiry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            if days := re.fullmatch(r"([0-9]{1,5})d", value):
                return datetime.now(UTC) + timedelta(days=int(days[1]))
            day = datetime.combine(date.fromisoformat(value), datetime.min.time(), UTC)
            return day + timedelta(days=1)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither days such as 30d nor a day such as 2026-12-31.", param, ctx)


def minutes(span: timedelta) -> int:
    """In whole minutes, rounded up."""
    return -(-span // MINUTE)


def _next(text: str) -> datetime:
    time, now = datetime.strptime(text, "%H:%M").time(), datetime.now()
    day = now.date() if time > now.time() else now.date() + timedelta(days=1)
    return datetime.combine(day, time).astimezone()
