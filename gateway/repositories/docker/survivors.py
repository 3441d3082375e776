"""A session as its container alone describes it, for a database that has no row of it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.domain.recovery import Survivor
from gateway.repositories.docker import labels


def survivor(found: Mapping[str, Any], network: str) -> Survivor:
    """Return what the list entry `found` of a session's container on `network` says of the session."""
    container_labels, created = found["Labels"], datetime.fromtimestamp(found["Created"], UTC)
    endpoint = found["NetworkSettings"]["Networks"].get(network) or {}
    fixed = endpoint.get("IPAMConfig") or {}
    uid = container_labels.get(labels.UID, "")
    return Survivor(
        session_id=container_labels[labels.SESSION],
        user_id=container_labels.get(labels.OWNER, ""),
        container_id=found["Id"],
        deployment=container_labels.get(labels.DEPLOYMENT),
        created_at=created,
        expires_at=labels.first_end(container_labels, otherwise=created),
        uid=int(uid) if uid.isdecimal() else None,
        address=endpoint.get("IPAddress") or fixed.get("IPv4Address") or None,
        allocation=labels.allocation(container_labels),
        is_running=found["State"] == "running",
    )
