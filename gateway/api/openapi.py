"""/openapi.json: the description of the API, made from its routes, schemas and permissions."""

import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.routing import IntegerConverter, Rule

from gateway.api.endpoints import Endpoint, Text
from gateway.api.responses import OPTIONAL, ProblemResponse, ResponseSchema
from gateway.domain import permissions
from gateway.domain.permissions import Role, Scope

_MEANINGS = {
    200: "Success",
    201: "Created",
    202: "Accepted: the gateway completes it later",
    204: "Success",
    400: "The request is not valid JSON or HTTP",
    401: "A valid token is needed",
    403: "The token does not allow this",
    404: "The object does not exist",
    409: "The state of the object does not allow this",
    410: "The session has ended",
    413: "The body is too large",
    415: "The Content-Type must be application/json",
    421: "The Host header does not name this gateway",
    422: "The request is invalid",
    429: "Too many requests in a minute",
    503: "A part does not answer, or no GPU has room",
    507: "A disk or the workspace is full",
}
_HEADERS = {
    201: ("Location",),
    401: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_PROBLEM = "application/problem+json"
_NAME = "openapi"  # in `Flask.extensions`
_CONVERTER = re.compile(r"<(int|path):")  # in the path of a rule


routes = Blueprint("openapi", __name__)


@routes.get("/openapi.json")
def document() -> ResponseReturnValue:
    """This description."""
    described: dict[str, Any] = current_app.extensions[_NAME]
    if request.script_root:  # the path of --public-url, without which a client would ask elsewhere
        return {**described, "servers": [{"url": request.script_root}]}
    return described


def install(app: Flask) -> None:
    """Describe every endpoint that is registered on `app`, and register this one. Call it
    before the web pages are registered, which are not part of the API."""
    with app.app_context():
        app.extensions[_NAME] = _document(app)
    app.register_blueprint(routes)


def _document(app: Flask) -> dict[str, Any]:
    spec = APISpec(
        title="GPU SSH Gateway",
        version=version("gpu-ssh-gateway"),
        openapi_version="3.1.0",
        plugins=[MarshmallowPlugin()],
    )
    spec.components.security_scheme("token", {"type": "http", "scheme": "bearer"})
    for rule in app.url_map.iter_rules():
        path = _CONVERTER.sub("<", rule.rule).replace("<", "{").replace(">", "}")
        view = app.view_functions[rule.endpoint]
        methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        spec.path(path, operations={method.lower(): _operation(rule, view) for method in methods})
    document = spec.to_dict()
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Response"):
            _require_all(schema)
    return document


def _operation(rule: Rule, view: Any) -> dict[str, Any]:
    described: Endpoint = view.endpoint
    roles = permissions.RULES[rule.endpoint]
    operation: dict[str, Any] = {
        "operationId": rule.endpoint,
        **_texts(view),
        "security": [{}] if Role.NOBODY in roles else [{"token": []}, {}],
        "parameters": [_path_parameter(rule, name) for name in sorted(rule.arguments)],
        "responses": {
            str(status): _response(status, schema) for status, schema in described.responses.items()
        },
    }
    if described.query:
        operation["parameters"].append({"in": "query", "schema": described.query()})
    if described.body:
        operation["requestBody"] = {
            "required": described.body_is_required,
            "content": {"application/json": {"schema": described.body()}},
        }
    for status in sorted({*described.problems, *_common_problems(described, roles, rule)}):
        response = operation["responses"].setdefault(str(status), _response(status, None))
        response.setdefault("content", {})[_PROBLEM] = {"schema": ProblemResponse}
    return operation


def _texts(view: Any) -> dict[str, str]:
    """The first sentence of a view's docstring, and if there are more, all of them."""
    text = " ".join(view.__doc__.split())
    summary = text.partition(". ")[0].rstrip(".") + "."
    return {"summary": summary} if text == summary else {"summary": summary, "description": text}


def _common_problems(described: Endpoint, roles: Mapping[Role, Scope], rule: Rule) -> set[int]:
    problems = {400, 421}
    if rule.methods and rule.methods & {"POST", "PUT", "DELETE"}:
        problems |= {403}
    if roles.get(Role.NOBODY) is not Scope.ALL:
        problems |= {401, 403, 429, 503}
    if described.body:
        problems |= {413, 415}
    if rule.arguments:
        problems |= {404}
    return problems


def _path_parameter(rule: Rule, name: str) -> dict[str, Any]:
    index = isinstance(rule._converters[name], IntegerConverter)
    schema = {"type": "integer", "minimum": 0} if index else {"type": "string", "minLength": 1}
    return {"in": "path", "name": name, "required": True, "schema": schema}


def _response(status: int, schema: type[ResponseSchema] | Text | None) -> dict[str, Any]:
    response: dict[str, Any] = {"description": _MEANINGS[status]}
    if isinstance(schema, Text):
        response = _response(status, schema.schema)
        others = {media_type: {"schema": {"type": "string"}} for media_type in schema.media_types}
        response["content"] = response.get("content", {}) | others
    elif schema:
        response["content"] = {"application/json": {"schema": schema}}
    if status in _HEADERS:
        response["headers"] = {name: {"schema": {"type": "string"}} for name in _HEADERS[status]}
    return response


def _require_all(schema: dict[str, Any]) -> None:
    """Mark the fields that every response has, which a marshmallow schema does not express.

    Also correct the format of times: for a custom time format apispec writes None, which is not valid.
    """
    fields: dict[str, Any] = schema.get("properties", {})
    for field in fields.values():
        if field.get("format", "") is None:
            field["format"] = "date-time"
    optional = {name for name, field in fields.items() if field.pop(OPTIONAL, False)}
    schema["required"] = sorted(fields.keys() - optional)
