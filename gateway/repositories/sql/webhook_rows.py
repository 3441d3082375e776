"""The rows of the webhooks and of their outbox."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, orm, select

from gateway.domain import webhooks
from gateway.domain.models import Event, User
from gateway.domain.records import Delivery, Webhook
from gateway.domain.webhooks import Subject


class WebhookRows:
    """A part of `SessionRows`."""

    _session: orm.Session

    def webhook(self, name: str) -> Webhook | None:
        return self._session.get(Webhook, name)

    def webhooks(self) -> Sequence[Webhook]:
        return self._session.scalars(select(Webhook).order_by(Webhook.name)).all()

    def add_webhook(self, webhook: Webhook) -> None:
        self._session.add(webhook)
        self._session.flush()

    def remove_webhook(self, name: str) -> None:
        """Remove the webhook with its deliveries."""
        self._session.execute(delete(Delivery).where(Delivery.webhook == name))
        self._session.execute(delete(Webhook).where(Webhook.name == name))

    def delivery(self, id: int) -> Delivery | None:
        return self._session.get(Delivery, id)

    def deliveries(self, webhook: str, limit: int) -> Sequence[Delivery]:
        """Return the latest deliveries to a webhook, newest last."""
        latest = select(Delivery).where(Delivery.webhook == webhook).order_by(Delivery.id.desc())
        return self._session.scalars(latest.limit(limit)).all()[::-1]

    def due_deliveries(self, webhook: str, now: datetime, limit: int) -> Sequence[Delivery]:
        """Return the deliveries to a webhook whose next attempt is due, oldest first."""
        due = select(Delivery).where(Delivery.webhook == webhook, Delivery.next_at <= now)
        return self._session.scalars(due.order_by(Delivery.id).limit(limit)).all()

    def post(self, webhook: Webhook, event: Event, session: Subject | None) -> None:
        """Put the event into the outbox of a webhook."""
        user = self._session.get(User, event.user_id) if event.user_id else None
        self._session.add(
            Delivery(
                webhook=webhook.name,
                event_id=event.id,
                type=webhooks.event_type(event.what),
                body=dict(webhooks.message(event, session, user)),
                created_at=event.at,
                next_at=event.at,
            )
        )

    def _post_to_all(self, event: Event, session: Subject | None) -> None:
        kind = webhooks.event_type(event.what)
        for webhook in self.webhooks():
            if webhook.disabled_at is None and webhooks.wants(webhook.events, kind):
                self.post(webhook, event, session)

    def _forget_deliveries(self, before: datetime) -> None:
        over = (Delivery.created_at < before, Delivery.next_at.is_(None))
        self._session.execute(delete(Delivery).where(*over))
