"""The configuration of Squid, the egress proxy."""

from collections.abc import Sequence
from ipaddress import IPv4Network

from gateway.domain.addresses import PROXY_PORT

# 8 GPUs with 7 sessions each that all use their share need 14,336 descriptors: 2 for each connection.
CONNECTIONS_OF_A_SESSION = 128
DESCRIPTORS = 16384
# Squid has no IPv6 here. A host that has one of these addresses too is not a public one.
_CLOSED_IPV6 = "::1 fc00::/7 fe80::/10"
# -n: Squid makes no reverse lookup of an address. The owner of its reverse zone could return an allowed name.
# `closed` comes last: Squid resolves only names that are allowed.
_HOST = """\
acl host{number} dstdomain -n {host}
acl port{number} port {port}
http_access allow host{number} port{number} !closed
"""
_CONFIGURATION = """\
http_port {listen}
acl sessions src {sessions}
acl closed dst {closed}
http_access deny !sessions
{hosts}http_access deny all
client_ip_max_connections {connections}
request_start_timeout 30 seconds
request_timeout 1 minute
client_idle_pconn_timeout 1 minute
connect_timeout 15 seconds
cache deny all
cache_mem 8 MB
memory_pools off
max_filedescriptors {descriptors}
pid_filename none
coredump_dir /tmp
access_log stdio:/dev/stdout
cache_log /dev/stderr
logfile_rotate 0
shutdown_lifetime 1 second
via off
forwarded_for delete
httpd_suppress_version_string on
"""


def configuration(sessions: str | None, hosts: Sequence[str], closed: Sequence[IPv4Network]) -> str:
    """`sessions` is the subnet of the clients; None to answer everybody, where the network decides who
    arrives. `hosts` are the allowed destinations as `HOST:PORT`, and `closed` the addresses that they must
    not resolve to."""
    numbered = enumerate(entry.rpartition(":") for entry in hosts)
    return _CONFIGURATION.format(
        listen=PROXY_PORT,
        sessions=sessions or "all",
        closed=" ".join([*map(str, closed), _CLOSED_IPV6]),
        hosts="".join(
            _HOST.format(number=number, host=host, port=port) for number, (host, _, port) in numbered
        ),
        connections=CONNECTIONS_OF_A_SESSION,
        descriptors=DESCRIPTORS,
    )
