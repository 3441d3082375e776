"""The C side of a call: opaque handles, arguments passed by reference, and the registry of functions."""

import ctypes
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import pynvml

from gateway.simulation.gpu import RefusedError
from gateway.simulation.machine import Machine

Body = Callable[..., None]
FUNCTIONS: dict[str, Body] = {}
CHANGES: set[str] = set()


def c_function(name: str, changes: bool = False) -> Callable[[Body], Body]:
    """Register a body `(machine, *C arguments)` under its name in nvml.h."""

    def register(body: Body) -> Body:
        FUNCTIONS[name] = body
        if changes:
            CHANGES.add(name)
        return body

    return register


class HandleKind(IntEnum):
    GPU = 0
    GPU_INSTANCE = 1
    COMPUTE_INSTANCE = 2
    MIG_DEVICE = 3


class Handle(NamedTuple):
    """The contents of an opaque pointer. `serial` is that of an instance, 0 for a GPU."""

    kind: HandleKind
    gpu: int
    serial: int = 0

    @property
    def address(self) -> int:
        return (self.serial << 8 | self.gpu + 1) << 2 | self.kind

    @classmethod
    def at(cls, pointer: Any) -> "Handle":
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if not address:
            raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return cls(HandleKind(address & 3), (address >> 2 & 0xFF) - 1, address >> 10)


def pointer_to(handle: Handle, c_type: Any) -> Any:
    return ctypes.cast(ctypes.c_void_p(handle.address), c_type)


def target(argument: Any) -> Any:
    """Return the object that `argument` points to. Refuses a plain value, which C would use as an address."""
    if isinstance(argument, ctypes.Array):
        return argument
    if isinstance(argument, ctypes._Pointer):
        return argument.contents
    try:
        return argument._obj
    except AttributeError:
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT) from None


def number(argument: Any) -> int:
    return int(getattr(argument, "value", argument))


def put(reference: Any, value: int) -> None:
    target(reference).value = value


def put_handle(reference: Any, handle: Handle) -> None:
    ctypes.c_void_p.from_buffer(target(reference)).value = handle.address


def put_fields(reference: Any, **fields: Any) -> None:
    structure = target(reference)
    for name, value in fields.items():
        setattr(structure, name, value)


def put_text(buffer: Any, length: Any, text: str) -> None:
    if len(text) >= number(length):
        raise RefusedError(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    buffer.value = text.encode()


def put_handles(array: Any, count: Any, handles: Sequence[Handle], room: int) -> None:
    """Fill an array. nvml.h requires space for `room` handles, even if there are fewer: a real driver would
    write past the end of a smaller array."""
    if len(target(array)) < room:
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    for index, handle in enumerate(handles):
        array[index] = pointer_to(handle, array._type_)
    put(count, len(handles))


def gpu_index(machine: Machine, device: Any) -> int:
    """Return the index of the GPU of a device handle. A lost GPU refuses every call."""
    handle = Handle.at(device)
    if handle.kind is not HandleKind.GPU or handle.gpu not in range(len(machine.gpus)):
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    require_present(machine, handle.gpu)
    return handle.gpu


def require_present(machine: Machine, gpu: int) -> None:
    if machine.gpus[gpu].lost:
        raise RefusedError(machine.gpus[gpu].lost)
