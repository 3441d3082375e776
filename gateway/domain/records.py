"""The rows that outlive sessions: counters and readings of the metrics."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Double, String
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
