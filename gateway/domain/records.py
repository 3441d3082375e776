"""The rows that outlive sessions: counters and readings of the metrics, the usage by day, and webhooks."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.domain.models import Base


class Count(Base):
    """The value of a counter. `labels` are the values of its labels as a JSON array."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    labels: Mapped[str] = mapped_column(String(200), primary_key=True)
    value: Mapped[float] = mapped_column(Double)


class LastReading(Base):
    """A table of at most one row: what the leader last read from the GPUs and the parts of /readyz."""

    __tablename__ = "readings"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    content: Mapped[dict[str, Any]] = mapped_column(JSON)


class UsageRow(Base):
    """What the sessions of a user with one profile held on one day. The rows are kept for ever.

    `user_group` is the user's group when the session ended, empty without one.
    """

    __tablename__ = "usage"

    day: Mapped[date] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_group: Mapped[str] = mapped_column(String(32), primary_key=True)
    mig_profile: Mapped[str] = mapped_column(String(64), primary_key=True)
    sessions: Mapped[int]
    lease_seconds: Mapped[int] = mapped_column(BigInteger)
    gpu_seconds: Mapped[float] = mapped_column(Double)
    idle_seconds: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class Webhook(Base):
    """A receiver of events. `events` are patterns of their types. The gateway signs with `secret`.

    `disabled_at`: when the receiver answered that it is gone, None while it gets events.
    """

    __tablename__ = "webhooks"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]]
    format: Mapped[str] = mapped_column(String(8))
    secret: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class Delivery(Base):
    """An event on its way to a webhook: the outbox. `body` is what `domain.webhooks.message` returned.

    `next_at` is the time of the next attempt, None if there is none. `status` is that of the last response,
    None if there was no response; `error` is then the reason.
    """

    __tablename__ = "deliveries"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(primary_key=True)
    webhook: Mapped[str] = mapped_column(ForeignKey("webhooks.name", ondelete="CASCADE"), index=True)
    event_id: Mapped[int]
    type: Mapped[str] = mapped_column(String(40))
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime | None] = mapped_column(index=True)
    attempted_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)


class PolicyRow(Base):
    """The rules of a policy, by their name. `name` is `default`, a group, or `user:` and a user's id."""

    __tablename__ = "policies"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    rules: Mapped[dict[str, Any]] = mapped_column(JSON)
    changed_at: Mapped[datetime]
