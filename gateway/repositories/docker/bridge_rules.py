"""The tables of nftables, on the host, that close the bridge of the sessions' network."""

import ipaddress
from collections.abc import Collection

from gateway.domain.addresses import PROXY_PORT, proxy_address
from gateway.repositories.docker.firewall import Ruleset

# The bridge family filters traffic between two sessions, including ARP, also without br_netfilter. Sessions
# can connect only to the address and port of the egress proxy, which exists only with --egress allowlist.
_TABLES = """\
table inet {table} {{
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{bridge}" ct state established,related accept
        iifname "{bridge}" drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{bridge}" oifname "{bridge}" ip daddr {proxy} tcp dport {port} accept
        iifname "{bridge}" oifname "{bridge}" ip saddr {proxy} tcp sport {port} ct state established accept
        iifname "{bridge}" drop
        oifname "{bridge}" drop
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        oifname "{bridge}" meta skuid != {{ {uids} }} reject with icmpx type admin-prohibited
    }}
}}
table bridge {table} {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ip daddr {proxy} tcp dport {port} accept
        ip saddr {proxy} tcp sport {port} accept
        arp daddr ip {proxy} accept
        arp saddr ip {proxy} accept
        ip saddr {subnet} drop
        ip daddr {subnet} drop
        arp saddr ip {subnet} drop
        arp daddr ip {subnet} drop
    }}
}}
"""


def table_name(bridge: str) -> str:
    """Return the name of a bridge's tables. nft allows no hyphen, and Docker no slash."""
    return f"gateway_{bridge.replace('-', '/')}"


def of(bridge: str, subnet: ipaddress.IPv4Network, router_uids: Collection[int]) -> Ruleset:
    """Return the tables of a bridge. Processes of `router_uids` may connect to sessions."""
    table = table_name(bridge)
    names = {
        "table": table,
        "bridge": bridge,
        "subnet": subnet,
        "proxy": proxy_address(subnet),
        "port": PROXY_PORT,
        "uids": ", ".join(map(str, sorted(router_uids))),
    }
    return Ruleset(table, _TABLES.format(**names))
