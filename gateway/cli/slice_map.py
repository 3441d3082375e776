"""The response of `GET /gpus` as text: each GPU as a bar of memory slices, with a line for each instance."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

_BAR = 72  # characters; divisible by every number of slices that GPUs have
_MODES = {
    "disabled": "MIG is off: an administrator can enable it with `nvidia-smi -i {index} -mig 1`",
    "unsupported": "no MIG",
    "pending-reset": "the MIG mode was changed: it takes effect at the next reset of the GPU",
}

_Json = Mapping[str, Any]


def draw(gpus: Sequence[_Json], now: datetime) -> str:
    """Return the drawing of all GPUs. `now` is aware UTC."""
    blocks = ["\n".join(_gpu(gpu, now)) for gpu in gpus]
    return "\n\n".join(blocks) or "This host has no GPUs."


def _gpu(gpu: _Json, now: datetime) -> Iterator[str]:
    simulated = ", simulated" if gpu["simulated"] else ""
    heading = click.style(f"GPU {gpu['label']}  {gpu['name']}", bold=True)
    yield f"{heading}  {gpu['memory_mib']} MiB{_free(gpu)}{simulated}"
    if gpu["mig_mode"] in _MODES and gpu["healthy"] and not gpu["leased_whole"]:
        yield "  " + _MODES[gpu["mig_mode"]].format(**gpu)
    if gpu["reason"]:
        yield "  " + click.style(gpu["reason"], fg="yellow" if gpu["healthy"] else "red")
    if gpu["memory_slices"]["total"]:
        yield from _slices(gpu)
    for instance in gpu["instances"]:
        yield _line(instance, now)
        if instance["problem"]:
            yield f"{'':<8}{click.style(instance['problem'], fg='red')}"
    yield from _promises(gpu["promised"], now)
    if gpu["cordoned_from"]:
        yield f"  closes for maintenance {_at(gpu['cordoned_from'], now)}"


def _free(gpu: _Json) -> str:
    slices = gpu["memory_slices"]
    if gpu["leased_whole"]:
        return ", leased whole" + ("" if slices["used"] else ", free")
    return f", {slices['total'] - slices['used']} of {slices['total']} slices free" if slices["total"] else ""


def _slices(gpu: _Json) -> Iterator[str]:
    """Return the numbers of the memory slices, and below them the bar with the instances."""
    total = gpu["memory_slices"]["total"]
    cell = _BAR // total
    yield "  " + "".join(f"{number:<{cell}}" for number in range(total)).rstrip()
    instances = {instance["start"]: instance for instance in gpu["instances"]}
    bar, slot = "", 0
    while slot < total:
        instance = instances.get(slot)
        size = instance["size"] if instance else 1
        bar += "|" + _segment(instance, size * cell - 1)
        slot += size
    yield f"  {bar}|"


def _segment(instance: _Json | None, width: int) -> str:
    if instance is None:
        return click.style("." * width, dim=True)
    label = f"{_owner(instance)} {instance['profile']} "[:width]
    return click.style(f"{label:=<{width}}", fg="black", bg=_colour(instance))


def _colour(instance: _Json) -> str:
    if instance["problem"] or instance["status"] == "closing":
        return "red"
    return {"active": "green", "pending": "cyan"}.get(instance["status"], "yellow")


def _owner(instance: _Json) -> str:
    """The other users' names are for operators."""
    if instance["status"]:
        return instance["user_id"] or "somebody"
    return "other" if instance["owner"] == "other" else "gateway"


def _line(instance: _Json, now: datetime) -> str:
    device = instance["gpu_uuid"] or "not created yet"
    return f"  {_piece(instance, _owner(instance))}  {_until(instance, now)}  {device}"


def _promises(promised: Sequence[_Json], now: datetime) -> Iterator[str]:
    """Return a line for the first reservation on the GPU, and how many come after it."""
    for first in promised[:1]:
        more = f", and {len(promised) - 1} more after it" if promised[1:] else ""
        yield f"  {_piece(first, 'promised')}  {_at(first['promised_at'], now)}{more}"


def _piece(piece: _Json, label: str) -> str:
    last = piece["start"] + piece["size"] - 1
    where = f"{piece['start']}-{last}" if last > piece["start"] else str(last)
    return f"{where:<6}{label:<12}  {piece['profile']:<12}"


def _until(instance: _Json, now: datetime) -> str:
    if instance["status"] is None:
        return "no session"
    if instance["status"] == "closing":
        return "is closing"
    ends = datetime.fromisoformat(instance["expires_at"])
    return f"until {ends:%Y-%m-%d %H:%M} UTC ({_remaining(ends, now)} left)"


def _at(time: str, now: datetime) -> str:
    at = datetime.fromisoformat(time)
    return f"at {at:%Y-%m-%d %H:%M} UTC (in {_remaining(at, now)})"


def _remaining(at: datetime, now: datetime) -> str:
    minutes = max(0, round((at - now).total_seconds() / 60))
    return f"{minutes // 60}:{minutes % 60:02}"
