"""What all forms share: they show why the gateway refuses, and keep what was typed."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flask import request
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from gateway.api.endpoints import sentences
from gateway.api.errors import meaning
from gateway.dashboard.rendering import page
from gateway.domain import durations
from gateway.errors import GatewayError

_Json = dict[str, Any]

_WHOLE = re.compile("-?[0-9]{1,18}")
_DECIMAL = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


def form(
    template: str, act: Callable[[], ResponseReturnValue], content: Callable[[], _Json]
) -> ResponseReturnValue:
    """Show the form after a GET, or after a POST that `act` refuses; else answer as `act` does."""
    if request.method == "GET":
        return page(template, **content())
    try:
        return act()
    except ValidationError as error:
        return page(template, 422, refusals=sentences(error), **content())
    except GatewayError as error:
        return page(template, meaning(error)[0], refusals=[str(error)], **content())


def typed(name: str) -> str:
    """The text of a field, empty if the form has no such field."""
    return request.form.get(name, "").strip()


def typed_lines(name: str) -> list[str]:
    """The lines of a field that have something in them."""
    return [line.strip() for line in typed(name).splitlines() if line.strip()]


def number(name: str) -> int | str:
    """The number that was typed; what is none stays a text, which the API refuses."""
    text = typed(name)
    return int(text) if _WHOLE.fullmatch(text) else text


def decimal(name: str) -> float | str:
    """As `number`, with a fraction."""
    text = typed(name)
    return float(text) if _DECIMAL.fullmatch(text) else text


def minutes(text: str) -> int:
    """Raises `ValidationError`."""
    try:
        return durations.parse(text) // timedelta(minutes=1)
    except ValueError as error:
        raise ValidationError(str(error)) from error
