"""The webhooks, and what became of their deliveries."""

from typing import Any

from flask import Response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from gateway.api import webhooks as webhooks_api
from gateway.api.endpoints import answer
from gateway.dashboard.blueprint import routes
from gateway.dashboard.form import form, typed
from gateway.dashboard.pages import with_times
from gateway.dashboard.polling import polled
from gateway.dashboard.rendering import page
from gateway.domain.webhooks import Format
from gateway.errors import WebhookNotFound

_Json = dict[str, Any]


@routes.get("/webhooks")
@polled
def webhooks() -> Response:
    """Show the webhooks."""
    return page("webhooks.html", webhooks=_all())


@routes.get("/webhooks/<name>")
@polled
def webhook(name: str) -> Response:
    """Show the latest deliveries of a webhook, newest first."""
    deliveries = answer(webhooks_api.deliveries, name=name)["deliveries"]
    return page("webhook.html", webhook=_one(name), deliveries=with_times(deliveries[::-1]))


@routes.route("/webhooks/set", methods=["GET", "POST"])
def set_webhook() -> ResponseReturnValue:
    """Make or change a webhook, and show the secret of a new one, which nobody gets again. The name is in the
    form, or for the form in the query."""

    def act() -> ResponseReturnValue:
        events = typed("events").replace(",", " ").split()
        body = {"url": typed("url"), "events": events, "format": typed("format")}
        made = answer(webhooks_api.change, body, name=typed("name"))
        if "secret" in made:
            return page("webhook-made.html", 201, webhook=made)
        return redirect(url_for("ui.webhook", name=made["name"]), 303)

    def content() -> _Json:
        name = request.args.get("name", "")
        known = [each for each in _all() if each["name"] == name]
        shown = {**known[0], "events": ", ".join(known[0]["events"])} if known else {}
        return {"name": name, "webhook": {**shown, **request.form}, "formats": list(Format)}

    return form("set-webhook.html", act, content)


@routes.route("/webhooks/<name>/remove", methods=["GET", "POST"])
def remove_webhook(name: str) -> ResponseReturnValue:
    """Remove a webhook."""

    def act() -> ResponseReturnValue:
        answer(webhooks_api.remove, name=name)
        return redirect(url_for("ui.webhooks"), 303)

    return form("remove-webhook.html", act, lambda: {"webhook": _one(name)})


@routes.post("/webhooks/<name>/test")
def test_webhook(name: str) -> ResponseReturnValue:
    """Send a test event."""
    answer(webhooks_api.test, name=name)
    return redirect(url_for("ui.webhook", name=name), 303)


@routes.post("/webhooks/<name>/deliveries/<int:delivery_id>/retry")
def retry_delivery(name: str, delivery_id: int) -> ResponseReturnValue:
    """Send a delivery again."""
    answer(webhooks_api.retry, name=name, delivery_id=delivery_id)
    return redirect(url_for("ui.webhook", name=name), 303)


def _all() -> list[_Json]:
    return with_times(answer(webhooks_api.list_all)["webhooks"])


def _one(name: str) -> _Json:
    """Raises `WebhookNotFound`."""
    for each in _all():
        if each["name"] == name:
            return each
    raise WebhookNotFound(name)
