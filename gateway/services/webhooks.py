"""Manages webhooks, and sends them their events."""

import base64
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.domain import counters, webhooks
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event
from gateway.domain.records import Delivery, Webhook
from gateway.domain.webhooks import Format
from gateway.errors import (
    DatabaseUnavailable,
    DeliveryFailed,
    DeliveryNotFound,
    InvalidRequest,
    WebhookNotFound,
    WebhookOff,
)
from gateway.failpoints import reach
from gateway.services.ports import Database, Receivers, Rows

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET_BYTES = 32
_AT_ONCE = 50  # deliveries that a round sends to one webhook

Target = tuple[Webhook, Sequence[Delivery]]


@dataclass(frozen=True)
class Webhooks:
    database: Database
    receivers: Receivers
    clock: Clock

    def list(self) -> Sequence[Webhook]:
        with self.database.read() as rows:
            return rows.webhooks()

    def set(self, name: str, url: str, events: Sequence[str], format: Format) -> tuple[Webhook, str | None]:
        """Create or change a webhook, and switch it on. Return it, with its secret if it is new. Raises
        `InvalidRequest`."""
        _require_valid(name, events)
        self.receivers.require_allowed(url)
        now = self.clock().wall
        with self.database.begin() as rows:
            webhook, secret = rows.webhook(name), None
            if webhook is None:
                secret = "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
                webhook = Webhook(name=name, secret=secret, created_at=now)
            webhook.url, webhook.events, webhook.format = url, list(events), format
            webhook.disabled_at = None
            rows.add_webhook(webhook)
            rows.record(Event.of(now, Action.WEBHOOK_CHANGED, f"{name}: {', '.join(events)}"))
        return webhook, secret

    def remove(self, name: str) -> None:
        """Remove a webhook with what was not delivered. Raises `WebhookNotFound`."""
        with self.database.begin() as rows:
            _webhook(rows, name)
            rows.remove_webhook(name)
            rows.record(Event.of(self.clock().wall, Action.WEBHOOK_REMOVED, name))

    def deliveries(self, name: str, limit: int) -> Sequence[Delivery]:
        """Return the latest deliveries, newest last. Raises `WebhookNotFound`."""
        with self.database.read() as rows:
            _webhook(rows, name)
            return rows.deliveries(name, limit)

    def retry(self, name: str, delivery_id: int) -> Delivery:
        """Send a delivery again, as if it were new. Raises `WebhookNotFound`, `WebhookOff`,
        `DeliveryNotFound`."""
        with self.database.begin() as rows:
            _enabled(rows, name)
            delivery = rows.delivery(delivery_id)
            if delivery is None or delivery.webhook != name:
                raise DeliveryNotFound(name, delivery_id)
            delivery.attempts, delivery.next_at = 0, self.clock().wall
            delivery.delivered_at = None
        return delivery

    def test(self, name: str) -> Delivery:
        """Send a test to this webhook, whatever events it wants. Raises `WebhookNotFound`, `WebhookOff`."""
        with self.database.begin() as rows:
            webhook = _enabled(rows, name)
            event = Event.of(self.clock().wall, Action.WEBHOOK_TESTED, name)
            rows.record(event)
            if not webhooks.wants(webhook.events, webhooks.event_type(event.what)):
                rows.post(webhook, event, None)
            return rows.deliveries(name, 1)[-1]

    def due(self) -> Sequence[Target]:
        """Return the deliveries that are due, by webhook. One with many cannot crowd out the others."""
        now = self.clock().wall
        with self.database.read() as rows:
            enabled = [webhook for webhook in rows.webhooks() if webhook.disabled_at is None]
            targets = [(each, rows.due_deliveries(each.name, now, _AT_ONCE)) for each in enabled]
        return [target for target in targets if target[1]]

    def send(self, target: Target, go_on: Callable[[], bool] = lambda: True) -> None:
        """Send the deliveries of one webhook, one after the other, until the receiver fails."""
        webhook, deliveries = target
        for delivery in deliveries:
            if not go_on() or not self._attempt(webhook, delivery):
                return

    def _attempt(self, webhook: Webhook, delivery: Delivery) -> bool:
        """Send one delivery and record the result. A crash in between repeats the delivery with the same
        `webhook-id`."""
        now, status, error = self.clock().wall, None, None
        try:
            status = self.receivers.post(webhook, f"evt_{delivery.event_id}", _body(webhook, delivery), now)
        except DeliveryFailed as failure:
            error = str(failure)
        reach("after-webhook-sent")
        with self.database.begin() as rows:
            row = rows.delivery(delivery.id)
            if row is None:  # the webhook was removed meanwhile
                return False
            _record(rows, row, self.clock().wall, status, error)
        reach("after-webhook-recorded", DatabaseUnavailable)
        return row.delivered_at is not None


def _record(rows: Rows, row: Delivery, now: datetime, status: int | None, error: str | None) -> None:
    row.attempts, row.attempted_at, row.status, row.error = row.attempts + 1, now, status, error
    row.next_at = None
    result = "delivered"
    if status is not None and 200 <= status < 300:
        row.delivered_at = now
    elif status == webhooks.GONE:
        result = "failed"
        _switch_off(rows, row.webhook, now)
    else:
        row.next_at = webhooks.next_attempt(row.attempts, now)
        result = "retried" if row.next_at else "failed"
    rows.count([counters.delivery(result)])
    failure = {"webhook": row.webhook, "delivery": row.id, "status": status, "error": error}
    if result != "delivered":
        log.warning("a webhook was not delivered", extra=failure)


def _switch_off(rows: Rows, name: str, now: datetime) -> None:
    webhook = rows.webhook(name)
    if webhook and webhook.disabled_at is None:
        webhook.disabled_at = now
        rows.record(Event.of(now, Action.WEBHOOK_DISABLED, f"{name}: the receiver answered 410"))


def _body(webhook: Webhook, delivery: Delivery) -> dict[str, object]:
    if webhook.format == Format.SLACK:
        return {"text": delivery.body["data"]["text"]}
    return delivery.body


def _webhook(rows: Rows, name: str) -> Webhook:
    webhook = rows.webhook(name)
    if webhook is None:
        raise WebhookNotFound(name)
    return webhook


def _enabled(rows: Rows, name: str) -> Webhook:
    webhook = _webhook(rows, name)
    if webhook.disabled_at is not None:
        raise WebhookOff(name)
    return webhook


def _require_valid(name: str, events: Sequence[str]) -> None:
    if not _NAME.fullmatch(name):
        allowed = "1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'"
        message = f"{name[:100]!r} cannot be the name of a webhook: use {allowed}."
        raise InvalidRequest(message, {"name": [message]})
    problems = [problem for each in events if (problem := webhooks.problem_with_pattern(each))]
    if problems:
        raise InvalidRequest(" ".join(problems), {"events": problems})
