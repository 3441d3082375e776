"""The nftables rules around the egress proxy: what its container can connect to, whatever Squid resolves.

Squid checks the addresses of a named host, and then resolves the name again to connect. The owner of the name
can change its address in between. These rules check the address of each connection.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

from gateway.errors import NetworkUnavailable
from gateway.repositories.docker.firewall import Ruleset

# In the proxy's network namespace. Docker's resolver listens on `lo`, and its servers may be private.
_INSIDE = """\
table inet gateway {{
    chain output {{
        type filter hook output priority filter; policy accept;
        oifname "lo" accept
        ct state established,related accept
        meta l4proto {{ tcp, udp }} th dport 53 accept
        ip daddr {{ {closed} }} reject with icmpx type admin-prohibited
        meta nfproto ipv6 reject with icmpx type admin-prohibited
    }}
}}
"""
# On the host, whose own addresses need not be private. `forward` sees the addresses behind published ports,
# and holds after Docker has started the proxy again, until the new namespace has its rules.
_HOST = """\
table inet {table} {{
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{bridge}" ct state established,related accept
        iifname "{bridge}" meta l4proto {{ tcp, udp }} th dport 53 accept
{opened}\
        iifname "{bridge}" drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{bridge}" ct state established,related accept
        iifname "{bridge}" meta l4proto {{ tcp, udp }} th dport 53 accept
        iifname "{bridge}" ip daddr {{ {closed} }} drop
        iifname "{bridge}" meta nfproto ipv6 drop
    }}
}}
"""
_OPENED = """\
        iifname "{bridge}" ip daddr {{ {opened} }} accept
"""


class EgressRules:
    """`table` is the name of the host's table, `closed` what the proxy must not connect to, and `opened` the
    private subnets in which named hosts can be. Raises `NetworkUnavailable`."""

    def __init__(self, table: str, closed: Sequence[IPv4Network], opened: Sequence[str]) -> None:
        self._table = table
        self._opened = opened
        self._closed = ", ".join(map(str, closed))
        self._inside = Ruleset("gateway", _INSIDE.format(closed=self._closed))

    def are_loaded(self, proxy: Mapping[str, Any], network: Mapping[str, Any]) -> bool:
        """`proxy` and `network` are Docker's inspections of the proxy and of its network to the outside."""
        return self._inside.is_loaded(_namespace(proxy)) and self._host(_bridge(network)).is_loaded()

    def load(self, proxy: Mapping[str, Any], network: Mapping[str, Any]) -> None:
        self._host(_bridge(network)).load()
        self._inside.load(_namespace(proxy))

    def remove(self) -> None:
        """Remove the host's table. The others end with the proxy's container."""
        self._host("").remove()

    def _host(self, bridge: str) -> Ruleset:
        opened = _OPENED.format(bridge=bridge, opened=", ".join(self._opened)) if self._opened else ""
        text = _HOST.format(table=self._table, bridge=bridge, opened=opened, closed=self._closed)
        return Ruleset(self._table, text)


def _namespace(proxy: Mapping[str, Any]) -> str:
    path = str(proxy["NetworkSettings"]["SandboxKey"])
    if not path:  # nsenter would take an empty path for the host's namespace
        raise NetworkUnavailable("The egress proxy has no network namespace: it does not run.")
    return path


def _bridge(network: Mapping[str, Any]) -> str:
    """The name that the administrator or Docker gave to the bridge."""
    options = network.get("Options") or {}
    return str(options.get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}")
