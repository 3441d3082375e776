"""The tree of errors in the documentation of `gateway.errors`."""

import inspect
import re

from gateway import errors


def drawn() -> dict[str, str | None]:
    """Each error that the drawing shows, with the error above it."""
    assert errors.__doc__
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"^ {4}(?P<bars>(?:[│ ] {3})*)(?P<branch>[├└]── )?(?P<name>[A-Z]\w+)", line):
            depth = len(found["bars"]) // 4 + bool(found["branch"])
            del path[depth:]
            parents[found["name"]] = path[-1] if path else None
            path.append(found["name"])
    return parents


def test_the_drawing_shows_every_error_where_it_belongs() -> None:
    classes = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.GatewayError)
    ]
    above = {kind.__name__: kind.__bases__[0].__name__ for kind in classes if kind is not errors.GatewayError}
    assert drawn() == {"GatewayError": None, **above}
