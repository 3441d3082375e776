"""/webhooks: who gets which events, and what became of them."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.endpoints import Fields, describes
from gateway.api.requests import DeliveriesRequest, WebhookRequest
from gateway.api.responses import (
    DeliveriesResponse,
    DeliveryResponse,
    NewWebhookResponse,
    WebhookResponse,
    WebhooksResponse,
)
from gateway.api.services import services
from gateway.domain.webhooks import Format

routes = Blueprint("webhooks", __name__, url_prefix="/webhooks")

_webhook, _new_webhook, _delivery = WebhookResponse(), NewWebhookResponse(), DeliveryResponse()


@routes.get("")
@describes({200: WebhooksResponse})
def list_all() -> ResponseReturnValue:
    """List the webhooks."""
    return {"webhooks": _webhook.dump(services().webhooks.list(), many=True)}


@routes.put("/<name>")
@describes({200: WebhookResponse, 201: NewWebhookResponse}, body=WebhookRequest, problems=(422, 507))
def change(given: Fields, name: str) -> ResponseReturnValue:
    """Create or change a webhook. The answer to its creation has its secret, once."""
    webhook, secret = services().webhooks.set(name, given["url"], given["events"], Format(given["format"]))
    if secret is None:
        return {**_webhook.dump(webhook)}
    return {**_new_webhook.dump(webhook)}, 201


@routes.delete("/<name>")
@describes({204: None}, problems=(404, 507))
def remove(name: str) -> ResponseReturnValue:
    """Remove a webhook with what was not delivered yet."""
    services().webhooks.remove(name)
    return "", 204


@routes.post("/<name>/test")
@describes({202: DeliveryResponse}, problems=(404, 409, 507))
def test(name: str) -> ResponseReturnValue:
    """Send a test event."""
    return {**_delivery.dump(services().webhooks.test(name))}, 202


@routes.get("/<name>/deliveries")
@describes({200: DeliveriesResponse}, query=DeliveriesRequest, problems=(404, 422))
def deliveries(query: Fields, name: str) -> ResponseReturnValue:
    """List the latest deliveries, newest last."""
    return {"deliveries": _delivery.dump(services().webhooks.deliveries(name, query["limit"]), many=True)}


@routes.post("/<name>/deliveries/<int:delivery_id>/retry")
@describes({202: DeliveryResponse}, problems=(404, 409, 507))
def retry(name: str, delivery_id: int) -> ResponseReturnValue:
    """Send a delivery again."""
    return {**_delivery.dump(services().webhooks.retry(name, delivery_id))}, 202
