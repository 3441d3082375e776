"""What a setting can be: marshmallow's fields for the text of a flag or a variable.

Each error continues the name of the setting: what is wrong with the value, and what to write instead.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from marshmallow import ValidationError, fields, validate

from gateway.database_url import DatabaseUrl
from gateway.domain import outside
from gateway.domain.isolation import WEAKNESSES
from gateway.domain.uids import LOWEST_UID, UidRange
from gateway.errors import StartRefused

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{1,9})?")
_SIZE = re.compile(r"([1-9][0-9]{0,8})([kmgt])", re.IGNORECASE)
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_NETWORK_NAME = re.compile(r"(?!(bridge|host|none|default)\Z)[A-Za-z0-9][A-Za-z0-9_.-]{1,62}")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_OBJECT_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,127}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")
_IMAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GPUS = re.compile(r"[1-9][0-9]{0,2}x[A-Za-z0-9-]+(, *[1-9][0-9]{0,2}x[A-Za-z0-9-]+)*", re.IGNORECASE)
_MINUTES = re.compile(r"[1-9][0-9]{0,4}")
_LONGEST_WARNING = 10080  # minutes
_UID_RANGE = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")
_HIGHEST_UID = 2**31 - 1  # what PostgreSQL's integer holds
AUTO = "auto"
_LONGEST_CONTACT = 200  # characters
_LONGEST_SOCKET_PATH = 107  # bytes: unix(7)
_LARGEST_SUBNET, _SMALLEST_SUBNET = 8, 29  # prefix lengths


class Site(StrEnum):
    """Where sessions run."""

    HOST = "host"
    KUBERNETES = "kubernetes"


class Size(str):
    """A size as it was written, such as `16g`; `bytes` is its number of bytes. Raises `ValueError`."""

    __slots__ = ()

    def __new__(cls, text: str) -> "Size":
        if not _SIZE.fullmatch(text):
            raise ValueError(f"{text!r} is not a size")
        return super().__new__(cls, text.lower())

    @property
    def bytes(self) -> int:
        return int(self[:-1]) * _UNITS[self[-1]]


class Minutes(tuple[int, ...]):
    """Numbers of minutes, written as `30,10,2` or `none`."""

    __slots__ = ()

    def __str__(self) -> str:
        return ",".join(map(str, self)) or "none"


class Parsed(fields.Field[Any]):
    """A field by the function that makes its value of the text, or raises `ValidationError`."""

    def __init__(self, parse: Callable[[str], Any]) -> None:
        super().__init__()
        self.parse = parse

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        return self.parse(value)


class Switch(fields.Boolean):
    """Yes or no; a flag such as --no-read-only-root comes as a boolean already."""

    def __init__(self) -> None:
        super().__init__(
            truthy={"true", "yes", "on", "1"},
            falsy={"false", "no", "off", "0"},
            error_messages={"invalid": "{input!r} is neither true nor false: use one of the two."},
        )

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> bool:
        value = value.lower() if isinstance(value, str) else str(value).lower()
        return super()._deserialize(value, attr, data, **options)


class Whole(fields.Integer):
    """A whole number in decimal digits, of which Python's `int` accepts more than people expect."""

    def __init__(self, low: int, high: int) -> None:
        advice = f"use a whole number from {low} to {high}."
        super().__init__(
            validate=validate.Range(low, high, error=f"{{input}} is out of range: {advice}"),
            error_messages={"invalid": f"{{input!r}} is not a whole number: {advice}"},
        )

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int:
        if not _WHOLE.fullmatch(value):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **options)


class Number(fields.Float):
    """A decimal number such as 0.5."""

    def __init__(self, low: float, high: float) -> None:
        advice = f"use a number from {low:g} to {high:g}."
        super().__init__(
            validate=validate.Range(low, high, error=f"{{input:g}} is out of range: {advice}"),
            error_messages={"invalid": f"{{input!r}} is not a number: {advice}"},
        )

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> float:
        if not _DECIMAL.fullmatch(value):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **options)


def one_of(choices: Sequence[str]) -> fields.String:
    """One of a few words."""
    listed = " or ".join([", ".join(choices[:-1]), choices[-1]])
    return fields.String(validate=validate.OneOf(choices, error=f"{{input!r}} is invalid: use {listed}."))


def size(low: str, high: str) -> Parsed:
    """A `Size` from `low` to `high`."""

    def parse(text: str) -> Size:
        try:
            parsed = Size(text)
        except ValueError as error:
            raise ValidationError(f"{error}: use a number and a unit, such as 512m or 16g.") from None
        if not Size(low).bytes <= parsed.bytes <= Size(high).bytes:
            raise ValidationError(f"{text} is out of range: use a size from {low} to {high}.")
        return parsed

    return Parsed(parse)


def size_or_auto(low: str, high: str) -> Parsed:
    """As `size`; `auto` is None."""
    parse = size(low, high).parse

    def parse_or_auto(text: str) -> Size | None:
        if text.lower() == AUTO:
            return None
        try:
            parsed: Size = parse(text)
        except ValidationError as error:
            raise ValidationError(f"{str(error.messages[0]).removesuffix('.')}, or auto.") from None
        return parsed

    return Parsed(parse_or_auto)


class NumberOrAuto(Number):
    """As `Number`; `auto` is None."""

    def deserialize(self, value: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(value, str) and value.lower() == AUTO:
            return None
        return super().deserialize(value, *arguments, **options)


def absolute_path(text: str) -> Path:
    path = Path(text)
    if not text.isprintable():
        raise ValidationError(f"{text!r} holds a control character: use a path without.")
    if not path.is_absolute():
        raise ValidationError(f"{text!r} is not an absolute path: use one that begins with a slash.")
    return path


def host_name(text: str) -> str:
    """A host name, or an IP address."""
    if not _HOST_NAME.fullmatch(text) and not _is_address(text):
        raise ValidationError(f"{text!r} is not a host name: use one such as ssh.example.org.")
    return text


def listen_address(text: str) -> str:
    """An IP address, or unix:/PATH."""
    if text.startswith("unix:/"):
        if len(text.removeprefix("unix:").encode()) > _LONGEST_SOCKET_PATH:
            raise ValidationError(
                f"the path of this unix socket is too long: use at most {_LONGEST_SOCKET_PATH} bytes."
            )
    elif not _is_address(text):
        raise ValidationError(f"{text!r} is neither an IP address nor unix:/PATH: use one such as 127.0.0.1.")
    return text


def subnet(text: str) -> str:
    """An IPv4 network with room for sessions, in which hosts can have addresses."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        raise ValidationError(f"{text!r} is not an IPv4 subnet: use one such as 10.213.0.0/20.") from None
    if not _LARGEST_SUBNET <= network.prefixlen <= _SMALLEST_SUBNET:
        raise ValidationError(
            f"/{network.prefixlen} is out of range: use a prefix length from "
            f"/{_LARGEST_SUBNET} to /{_SMALLEST_SUBNET}."
        )
    if network.is_loopback or network.is_multicast or network.is_link_local or network.is_reserved:
        raise ValidationError(f"{text} is reserved for other uses: use a private subnet.")
    return text


def networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Networks separated by commas."""
    try:
        return tuple(ipaddress.ip_network(each.strip()) for each in text.split(",") if each.strip())
    except ValueError:
        raise ValidationError(f"{text!r} is not a list of networks: use one such as 10.1.0.0/16.") from None


def network_name(text: str) -> str:
    if not _NETWORK_NAME.fullmatch(text):
        raise ValidationError(
            f"{text!r} cannot be a Docker network of the gateway's own: use a name such as worknet."
        )
    return text


def namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise ValidationError(f"{text!r} is not the name of a namespace: use one such as gpu-sessions.")
    return text


def object_name(text: str) -> str:
    """A name in Kubernetes, or the beginning of one."""
    if not _OBJECT_NAME.fullmatch(text):
        raise ValidationError(
            f"{text!r} is not the name of an object in Kubernetes: use lower-case letters, digits, dots and "
            "dashes."
        )
    return text


def service(text: str) -> str:
    namespace, _, name = text.partition("/")
    if not (_NAMESPACE.fullmatch(namespace) and _OBJECT_NAME.fullmatch(name)):
        raise ValidationError(f"{text!r} is no NAMESPACE/NAME of a Service: use one such as gpu-gateway/api.")
    return text


def image_name(text: str) -> str:
    if not _IMAGE.fullmatch(text):
        raise ValidationError(f"{text!r} is not the name of a Docker image: use one such as gpu-workspace.")
    return text


def named_images(text: str) -> tuple[tuple[str, str], ...]:
    """NAME=IMAGE separated by commas."""
    listed = [each.strip().partition("=") for each in text.split(",") if each.strip()]
    for name, _, image in listed:
        if not _IMAGE_NAME.fullmatch(name) or not _IMAGE.fullmatch(image):
            raise ValidationError(
                f"{text!r} is not a list of names and images: use one such as torch=gpu-workspace-torch:2.9."
            )
    names = [name for name, _, _ in listed]
    if "default" in names:
        raise ValidationError("the image with the name default is that of --image: use another name.")
    if len(set(names)) < len(names):
        raise ValidationError(f"{text!r} has the same name twice: use each name once.")
    return tuple((name, image) for name, _, image in listed)


def gpus_to_simulate(text: str) -> str:
    """The form alone: the simulated driver knows the kinds of GPUs."""
    if not _GPUS.fullmatch(text):
        raise ValidationError(f"{text!r} is not a list of GPUs: use one such as 2xA100-40GB,1xL4.")
    return text


def hosts_and_ports(text: str) -> tuple[str, ...]:
    """HOST:PORT separated by commas; a dot before a host includes its subdomains."""
    listed = tuple(host.strip().lower() for host in text.split(",") if host.strip())
    for each in listed:
        host, _, port = each.rpartition(":")
        if not _HOST_NAME.fullmatch(host.removeprefix(".")) or not is_port(port):
            raise ValidationError(f"{each!r} is not HOST:PORT: use one such as pypi.org:443.")
    return listed


def private_subnets(text: str) -> tuple[str, ...]:
    """IPv4 subnets separated by commas."""
    listed = tuple(subnet.strip() for subnet in text.split(",") if subnet.strip())
    for each in listed:
        if problem := outside.problem_with(each):
            raise ValidationError(problem)
    return listed


def weaknesses(text: str) -> tuple[str, ...]:
    """Names of weaknesses separated by commas."""
    listed = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    for each in listed:
        if each not in WEAKNESSES:
            raise ValidationError(f"{each!r} is unknown: use some of {','.join(WEAKNESSES)}.")
    return listed


def host_names(text: str) -> tuple[str, ...]:
    """Host names and addresses separated by commas; a dot before a name stands for its subdomains."""
    listed = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    for each in listed:
        if not _HOST_NAME.fullmatch(each.removeprefix(".")) and not _is_address(each):
            raise ValidationError(f"{each!r} is not a host name: use one such as gateway.example.org.")
    return listed


def public_url(text: str) -> str:
    """http:// or https://, a host, and the path that a proxy puts before the API's own; without a last /."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        is_good = parts.scheme in ("http", "https") and (_HOST_NAME.fullmatch(host) or _is_address(host))
        is_plain = parts.port != 0 and parts.username is None and not parts.query and not parts.fragment
    except ValueError:
        is_good = is_plain = False
    if not is_good or not is_plain or not text.isascii() or not text.isprintable() or " " in text:
        raise ValidationError(
            f"{text!r} is not the URL of an API: use one such as https://gw.example.org/gpu."
        )
    return text.rstrip("/")


def minutes_before_the_end(text: str) -> Minutes:
    """Whole minutes separated by commas, or `none`."""
    if text.strip().lower() == "none":
        return Minutes()
    listed = [part.strip() for part in text.split(",")]
    if not all(_MINUTES.fullmatch(part) and int(part) <= _LONGEST_WARNING for part in listed):
        raise ValidationError(
            f"{text!r} is not a list of minutes, each from 1 to {_LONGEST_WARNING}: use one such as "
            "30,10,2, or none."
        )
    return Minutes(sorted({int(part) for part in listed}, reverse=True))


def time_zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValidationError(f"{text!r} is not a time zone: use one such as Asia/Seoul or UTC.") from None


def lobby(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not is_port(port) or not (_HOST_NAME.fullmatch(host) or _is_address(host)):
        raise ValidationError(f"{text!r} is not HOST:PORT: use one such as 127.0.0.1:2223.")
    return host, int(port)


def contact(text: str) -> str:
    if len(text) > _LONGEST_CONTACT or not text.isprintable():
        raise ValidationError(
            f"{text[:40]!r} is not one short line: use at most {_LONGEST_CONTACT} printable characters."
        )
    return text


def database(text: str) -> DatabaseUrl:
    """The errors do not repeat the text, which may hold a password."""
    try:
        return DatabaseUrl(text)
    except StartRefused as refusal:
        raise ValidationError(str(refusal)) from None


def uid_range(text: str) -> UidRange:
    if not (found := _UID_RANGE.fullmatch(text)):
        raise ValidationError(f"{text!r} is not a range of uids: use the form 20000-59999.")
    first, last = int(found[1]), int(found[2])
    if not LOWEST_UID <= first <= last <= _HIGHEST_UID:
        raise ValidationError(
            f"{text!r} is not within {LOWEST_UID}-{_HIGHEST_UID}, the lower uid first: uids below "
            f"{LOWEST_UID} are the system's."
        )
    return UidRange(first, last)


def is_port(text: str) -> bool:
    return bool(_WHOLE.fullmatch(text)) and text[0] not in "+-" and 1 <= int(text) <= 65535


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
