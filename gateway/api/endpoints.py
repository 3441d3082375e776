"""The decorator of the views: it loads a view's input, and describes the view for /openapi.json."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import request
from flask.typing import ResponseReturnValue
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from gateway.api.responses import ResponseSchema

Fields = dict[str, Any]
View = Callable[..., ResponseReturnValue]
MakeSchema = Callable[[], Schema]  # a schema class, or a function that reads the services


class Text:
    """A response that can be something else than JSON: its other media types, and the schema of its JSON."""

    def __init__(self, *media_types: str, schema: type[ResponseSchema] | None = None) -> None:
        self.media_types, self.schema = media_types, schema


Responses = Mapping[int, type[ResponseSchema] | Text | None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a view takes, what it returns on success, and the problems that only this view has."""

    responses: Responses
    body: MakeSchema | None
    body_is_required: bool
    query: MakeSchema | None
    problems: tuple[int, ...]

    def inputs(self, given: Fields | None) -> Iterator[Fields]:
        """Load the body, then the query of this request. `given` replaces the body. Raises
        marshmallow's `ValidationError`."""
        if self.body:
            is_absent = not self.body_is_required and not request.get_data()
            yield _load(self.body, given if given is not None else {} if is_absent else _json())
        if self.query:
            yield _load(self.query, request.args)


def describes(
    responses: Responses,
    *,
    body: MakeSchema | None = None,
    optional_body: MakeSchema | None = None,
    query: MakeSchema | None = None,
    problems: tuple[int, ...] = (),
) -> Callable[[View], View]:
    """Pass the loaded body and query to the view, before the arguments from its path.

    `answer` calls the view with a body of its own, as `given`."""
    endpoint = Endpoint(responses, body or optional_body, body is not None, query, problems)

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def load_and_call(given: Fields | None = None, **path: Any) -> ResponseReturnValue:
            return view(*endpoint.inputs(given), **path)

        load_and_call.endpoint = endpoint  # type: ignore[attr-defined]
        return load_and_call

    return decorate


def answer(view: View, body: Fields | None = None, **path: Any) -> Fields:
    """Return the JSON that the API answers to a request with this body, for the web pages.

    `body` is None for an endpoint that takes none. The endpoint's rule must have been checked for the caller.
    Raises marshmallow's `ValidationError`, and what the view raises."""
    response = view(**path) if body is None else view(given=body, **path)
    content = response[0] if isinstance(response, tuple) else response
    return content if isinstance(content, dict) else {}


def sentences(error: ValidationError) -> list[str]:
    """One sentence for each field that is wrong."""
    fields: Fields = error.normalized_messages()  # type: ignore[no-untyped-call]
    named = ((name, message) for name, messages in fields.items() for message in messages)
    return [message if name == "_schema" else f"{name}: {message}" for name, message in named]


def _json() -> Any:
    """The body of the request. Raises `UnsupportedMediaType`, and `BadRequest` with what is wrong."""
    if not request.is_json:
        raise UnsupportedMediaType("Send the body as JSON, with the header `Content-Type: application/json`.")
    try:
        return json.loads(request.get_data(), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.") from None
    except ValueError:  # no Unicode, or a number of thousands of digits
        raise BadRequest("The body is not valid JSON.") from None


def _object(members: list[tuple[str, Any]]) -> Fields:
    """Of two members of one name, only the last would count."""
    found = dict(members)
    if len(found) < len(members):
        names = [name for name, _ in members]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"The JSON has the member {twice[:100]!r} twice: leave one out.")
    return found


def _load(make_schema: MakeSchema, data: Any) -> Fields:
    fields: Fields = make_schema().load(data)
    return fields
