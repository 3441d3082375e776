"""The rows that outlive sessions: counters and readings of the metrics, and the usage by day."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Double, String
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
