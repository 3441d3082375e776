"""Signing in and out, the language, and what a browser gets instead of a problem+json."""

from flask import Response, redirect, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response as Redirect

from gateway.api.authorisation import SIGN_IN_COOKIE, refuse_token
from gateway.api.endpoints import sentences
from gateway.api.errors import explanation, meaning
from gateway.api.services import services
from gateway.dashboard.blueprint import routes
from gateway.dashboard.rendering import LANGUAGE_COOKIE, page
from gateway.errors import ForeignOrigin, GatewayError, Unauthenticated
from gateway.languages import LANGUAGES
from gateway.services.sign_ins import LIFETIME

_SAFE = ("GET", "HEAD", "OPTIONS")
_YEAR = 365 * 24 * 3600  # seconds


@routes.before_request
def require_own_page() -> None:
    """Raise `ForeignOrigin` unless a browser says that one of these pages sends the form.

    `gateway.api.browsers` refuses foreign pages; this also refuses a browser that does not say."""
    names_page = "Origin" in request.headers or request.headers.get("Sec-Fetch-Site") == "same-origin"
    if request.method not in _SAFE and not names_page:
        raise ForeignOrigin("a browser that does not name the page")


@routes.before_request
def leave_out_what_is_empty() -> None:
    """A form sends its empty fields, too. The defaults of the API hold for them."""
    given = request.args.items(multi=True)
    request.args = ImmutableMultiDict((name, value) for name, value in given if value.strip())


@routes.get("")
def start() -> ResponseReturnValue:
    """Send who typed the address without its last slash to the first page."""
    return redirect(url_for("ui.now"), 308)


@routes.get("/<path:_unknown>")
def unknown(_unknown: str) -> ResponseReturnValue:
    """A page that does not exist: a page says so, and not the JSON of the API."""
    raise NotFound


@routes.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """Exchange an API token for a cookie."""
    if request.method == "GET":
        return page("sign-in.html")
    try:
        secret = services().sign_ins.sign_in(request.form.get("token", "").strip())
    except Unauthenticated as error:
        refusal = refuse_token(error)
        return page("sign-in.html", meaning(refusal)[0], refused=True)
    response = redirect(url_for("ui.now"), 303)
    return _with_cookie(response, SIGN_IN_COOKIE, secret, round(LIFETIME.total_seconds()))


@routes.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Make the cookie invalid."""
    services().sign_ins.sign_out(request.cookies.get(SIGN_IN_COOKIE, ""))
    response = redirect(url_for("ui.sign_in"), 303)
    response.delete_cookie(SIGN_IN_COOKIE, path=_path())
    return response


@routes.post("/language")
def language() -> ResponseReturnValue:
    """Show the pages in another language from now on."""
    response = redirect(url_for("ui.now"), 303)
    chosen = request.form.get("language", "")
    return _with_cookie(response, LANGUAGE_COOKIE, chosen, _YEAR) if chosen in LANGUAGES else response


def _with_cookie(response: Redirect, name: str, value: str, seconds: int) -> Redirect:
    is_secure = services().public_url.startswith("https:")
    response.set_cookie(
        name, value, max_age=seconds, path=_path(), secure=is_secure, httponly=True, samesite="Strict"
    )
    return response


def _path() -> str:
    """The browser sends the cookies to the pages only."""
    return url_for("ui.start")


@routes.errorhandler(Unauthenticated)
def _ask_to_sign_in(_error: Unauthenticated) -> ResponseReturnValue:
    """Send the browser to the form. A poll is answered with a header, because a redirect would put the form
    into the middle of the page."""
    form = url_for("ui.sign_in")
    if "HX-Request" in request.headers:
        return Response(status=401, headers={"HX-Redirect": form})
    return redirect(form, 303)


@routes.errorhandler(ValidationError)
def _show_query(error: ValidationError) -> ResponseReturnValue:
    """A query in the address that the API does not know."""
    return page("problem.html", 422, title="The request is invalid", detail=" ".join(sentences(error)))


@routes.errorhandler(HTTPException)
def _show_http(error: HTTPException) -> ResponseReturnValue:
    """What Flask or werkzeug refuses, such as a form that is too large."""
    return page("problem.html", error.code or 500, title=error.name, detail=explanation(error))


@routes.errorhandler(GatewayError)
def _show(error: GatewayError) -> ResponseReturnValue:
    status, _kind, title = meaning(error)
    return page("problem.html", status, title=title, detail=str(error))
