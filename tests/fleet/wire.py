"""Messages of gRPC that consist of texts and other messages: a kubelet sends a driver nothing else."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

_BYTES = 2  # the type of a field whose length precedes it


@dataclass(frozen=True)
class Message:
    fields: Mapping[int, list[bytes]]

    def text(self, number: int) -> str:
        return b"".join(self.fields.get(number, [])[-1:]).decode()

    def parts(self, number: int) -> list[bytes]:
        return self.fields.get(number, [])


def message(*fields: Mapping[int, str | bytes]) -> bytes:
    """Return the message of these fields, by their numbers. A number may be in several mappings."""
    return b"".join(_field(number, value) for each in fields for number, value in each.items())


def read(data: bytes) -> Message:
    """Numbers are left out."""
    found: dict[int, list[bytes]] = defaultdict(list)
    while data:
        key, data = _number(data)
        value, data = _number(data)
        if key & 7 == _BYTES:
            found[key >> 3].append(data[:value])
            data = data[value:]
    return Message(found)


def _field(number: int, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def _number(data: bytes) -> tuple[int, bytes]:
    value = 0
    for position, byte in enumerate(data):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, data[position + 1 :]
    raise ValueError("the message is cut off")
