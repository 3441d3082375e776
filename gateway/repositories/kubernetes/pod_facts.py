"""What the pod of a session says, as the gateway's own values. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.domain.states import Reason
from gateway.repositories.kubernetes.api import Object
from gateway.repositories.kubernetes.facts import moment
from gateway.repositories.kubernetes.objects import CREATED_AT, DEPLOYMENT, LEASE_ENDS, SESSION, UID, USER

_OUT_OF_MEMORY, _DEADLINE = "OOMKilled", "DeadlineExceeded"
_KILLED = 128 + 9
# The kubelet waits and tries again after these, so a session that begins waits no longer.
_CANNOT_START = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}
# The scheduler has not seen the other objects yet, or the volume is still being made.
_NOT_YET = ("not found", "unbound immediate", "waiting for", "waits for")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """`refusal`: why no node takes the pod, `failure`: why it cannot start, `waits_for`: what it waits for;
    each None if that is not so. `ended`: why its container has ended, None while it runs or waits.
    `is_silent`: its node does not answer. `problem`: what is wrong with a pod that may still run."""

    name: str
    session_id: str
    user_id: str
    uid: int | None
    deployment: str | None
    node: str | None
    address: str | None
    created_at: datetime
    expires_at: datetime
    is_running: bool
    is_deleted: bool
    refusal: str | None
    failure: str | None
    waits_for: str | None
    ended: Reason | None
    is_silent: bool
    problem: str | None

    @classmethod
    def of(cls, found: Object) -> "PodFacts":
        metadata, status = found["metadata"], found.get("status") or {}
        labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
        conditions = {each["type"]: each for each in status.get("conditions") or ()}
        state = _container_state(status)
        created_at = moment(notes.get(CREATED_AT)) or moment(metadata.get("creationTimestamp")) or _NEVER
        is_deleted = metadata.get("deletionTimestamp") is not None
        is_silent = _is_silent(conditions.get("Ready"))
        uid = labels.get(UID, "")
        return cls(
            name=metadata["name"],
            session_id=labels.get(SESSION, ""),
            user_id=notes.get(USER, ""),
            uid=int(uid) if uid.isdecimal() else None,
            deployment=labels.get(DEPLOYMENT),
            node=(found.get("spec") or {}).get("nodeName"),
            address=status.get("podIP"),
            created_at=created_at,
            expires_at=moment(notes.get(LEASE_ENDS)) or created_at,
            is_running=status.get("phase") == "Running" and "running" in state,
            is_deleted=is_deleted,
            refusal=_refusal(conditions.get("PodScheduled")),
            failure=_failure(status, state),
            waits_for=_waits_for(conditions.get("PodScheduled"), state),
            ended=_ended(status, state),
            is_silent=is_silent,
            problem=_problem(is_silent, is_deleted),
        )


_NEVER = datetime.fromtimestamp(0, UTC)


def _container_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses = status.get("containerStatuses") or [{}]
    state: Mapping[str, Any] = statuses[0].get("state") or {}
    return state


def _refusal(scheduled: Mapping[str, Any] | None) -> str | None:
    if scheduled is None or scheduled.get("status") != "False":
        return None
    message = str(scheduled.get("message") or "")
    is_final = scheduled.get("reason") == "Unschedulable" and not any(each in message for each in _NOT_YET)
    return message if is_final else None


def _waits_for(scheduled: Mapping[str, Any] | None, state: Mapping[str, Any]) -> str | None:
    waiting = state.get("waiting") or {}
    found = waiting or scheduled or {}
    return str(found.get("message") or found.get("reason") or "") or None


def _failure(status: Mapping[str, Any], state: Mapping[str, Any]) -> str | None:
    waiting = state.get("waiting") or {}
    if waiting.get("reason") in _CANNOT_START:
        return f"{waiting['reason']}: {waiting.get('message') or 'without a message'}"
    if status.get("phase") not in ("Failed", "Succeeded"):
        return None
    ended = state.get("terminated") or {}
    details = [status.get("reason"), status.get("message"), ended.get("reason"), ended.get("message")]
    code = [f"exit code {ended['exitCode']}"] if "exitCode" in ended else []
    return ", ".join([str(each) for each in details if each] + code) or "without a reason"


def _ended(status: Mapping[str, Any], state: Mapping[str, Any]) -> Reason | None:
    if status.get("phase") not in ("Failed", "Succeeded"):
        return None
    ended = state.get("terminated")
    if status.get("reason") == _DEADLINE:
        return Reason.EXPIRED
    if ended and ended.get("reason") == _OUT_OF_MEMORY:
        return Reason.OUT_OF_MEMORY
    if status.get("reason"):  # Evicted, NodeShutdown, NodeLost …
        return Reason.STOPPED
    if not ended:  # no kubelet said so: the controllers call pods of a removed node failed
        return Reason.FAILED
    return Reason.KILLED if ended.get("exitCode") == _KILLED else Reason.USER_EXIT


def _is_silent(ready: Mapping[str, Any] | None) -> bool:
    """A kubelet says why its pod is not ready. The controllers, which speak for a silent node, do not."""
    return bool(ready and ready.get("status") == "False" and not ready.get("reason"))


def _problem(is_silent: bool, is_deleted: bool) -> str | None:
    if is_silent:
        return "Its node does not answer; the session stays open until the node is back or was removed."
    return "Its pod is being deleted, and is not gone yet." if is_deleted else None
