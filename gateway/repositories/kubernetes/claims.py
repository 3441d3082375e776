"""What is wrong with the claims and the pods of a cluster, beyond single sessions. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from gateway.repositories.kubernetes import facts
from gateway.repositories.kubernetes.api import Object
from gateway.repositories.kubernetes.facts import Inventory

_LONG = timedelta(minutes=2)  # for a removal
_NAMED = 3  # objects in a sentence


def overcommitted(slices: Iterable[Object], claims: Iterable[Object]) -> Iterator[str]:
    """Say which nodes have promised more than they have. The scheduler gives no device of such a node."""
    held: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for claim in claims:
        if name := facts.allocated(claim):
            held[name.pool].append((claim["metadata"]["name"], name.device))
    for pool, pieces in facts.newest(slices).items():
        yield from _of_pool(pool, pieces, held[pool])


def _of_pool(pool: str, pieces: Sequence[Object], held: Sequence[tuple[str, str]]) -> Iterator[str]:
    devices = {each["name"]: each for piece in pieces for each in piece["spec"].get("devices") or ()}
    used: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    by: dict[str, list[str]] = defaultdict(list)
    for claim, device in held:
        for consumed in devices.get(device, {}).get("consumesCounters") or ():
            by[consumed["counterSet"]].append(claim)
            for name, value in consumed["counters"].items():
                used[consumed["counterSet"]][name] += facts.number(value)
    for counter_set, totals in facts.counter_sets(pieces).items():
        over = sorted(name for name, amount in used[counter_set].items() if amount > totals.get(name, 0))
        if over:
            yield (
                f"{pool} has promised more of {counter_set} than there is ({_list(over)}), to the claims "
                f"{_list(by[counter_set])}: until one of them is gone, the whole node gives no slice."
            )


def stuck(
    claims: Iterable[Object], pods: Iterable[Object], inventory: Inventory, now: datetime
) -> Iterator[str]:
    """Say which objects do not go, and which claims have a device that is not published."""
    for pod in pods:
        if since := _is_going_since(pod, now):
            node = (pod.get("spec") or {}).get("nodeName")
            yield (
                f"The pod {_name(pod)} should be gone since {since:%H:%M:%S} UTC: its node {node} does not "
                "answer, or the driver cannot take its slice back; see `kubectl describe pod`."
            )
    for claim in claims:
        name = facts.allocated(claim)
        if since := _is_going_since(claim, now):
            yield (
                f"The claim {_name(claim)} should be gone since {since:%H:%M:%S} UTC, but something reserves "
                "it; see `kubectl describe resourceclaim`."
            )
        elif name and name not in inventory.devices:
            yield (
                f"The claim {_name(claim)} has the device {name.device} of {name.pool}, which is not "
                "published."
            )


def _is_going_since(found: Object, now: datetime) -> datetime | None:
    """When the removal began, if it takes long; else None."""
    since = facts.moment(found["metadata"].get("deletionTimestamp"))
    return since if since and now - since > _LONG else None


def _name(found: Mapping[str, Mapping[str, str]]) -> str:
    return found["metadata"]["name"]


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if names[_NAMED:] else ""
    return ", ".join(names[:_NAMED]) + more
