"""The attempts from inside a session and from outside, in the order of the report."""

from gateway.doctor.attack.inside import devices, door, files, kernel, network, resources
from gateway.doctor.attack.outside import accounts, api, logins, proxies
from gateway.doctor.attack.outside.attacker import OutsideProbe
from gateway.doctor.attack.probe import Probe

_REACHED = {"ports": "ports", "refusals": "refusals"}


def _tcp(name: str, addresses: str) -> Probe:
    return Probe(name, network, "reach_tcp", {"addresses": addresses, **_REACHED})


def _udp(name: str, addresses: str) -> Probe:
    return Probe(name, network, "reach_udp", {"addresses": addresses, **_REACHED})


def _ping(name: str, addresses: str) -> Probe:
    return Probe(name, network, "ping", {"addresses": addresses})


INSIDE: tuple[Probe, ...] = (
    _tcp("another session, TCP", "neighbours"),
    _udp("another session, UDP", "neighbours"),
    _ping("another session, ping", "neighbours"),
    Probe(
        "another session, by name",
        network,
        "reach_by_name",
        {"names": "neighbour_names", **_REACHED},
    ),
    Probe("another session's network card", network, "learn_mac_address", {"addresses": "neighbours"}),
    Probe("Docker's resolver", network, "ask_dockers_resolver", {"names": "neighbour_names"}),
    _tcp("the host: API, sshd, router, Docker", "hosts"),
    _udp("the host, UDP", "hosts"),
    _ping("the host, ping", "hosts"),
    Probe("IPv6 on the link", network, "ping_ipv6", {"addresses": "links"}),
    _tcp("an outside address", "outside"),
    _udp("an outside address, UDP", "outside"),
    Probe("an outside name", network, "resolve_outside", {"name": "outside_name"}),
    _tcp("the cloud's metadata", "metadata"),
    Probe(
        "the proxy, to targets that it must deny",
        network,
        "misuse_proxy",
        {"proxies": "proxies", "addresses": "beyond"},
    ),
    # Alone, because the other attempt at the proxy comes from the same session.
    Probe("very many connections to the proxy", network, "crowd_proxy", {"proxies": "proxies"}, alone=True),
    Probe("raw sockets", network, "raw_sockets"),
    Probe("another session's address", network, "take_address", {"addresses": "neighbours"}),
    Probe("ARP and network parameters", network, "change_network"),
    Probe("Docker's socket", files, "daemon_sockets"),
    Probe("another user's workspace", files, "other_workspaces", {"users": "users"}),
    Probe("directories of the host", files, "host_files"),
    Probe("the files that decide who may log in", files, "login_files"),
    Probe("an own authorized_keys", files, "own_authorized_keys", {"port": "ssh_port"}),
    Probe("files that an administrator reads", files, "system_files"),
    Probe("another session, by the door", door, "ask_for_another", {"sessions": "neighbour_sessions"}),
    Probe("more rights, by the door", door, "take_more_rights"),
    Probe("replacing the door", door, "replace_door"),
    Probe("a second GPU", devices, "second_gpu"),
    Probe("devices", devices, "foreign_devices"),
    Probe("the machine's memory and log", devices, "machine_memory"),
    Probe("mount", kernel, "mount"),
    Probe("unshare", kernel, "unshare"),
    # For a moment, a command that Docker starts inside runs as root: another user's process.
    Probe("other processes", kernel, "other_processes", alone=True),
    Probe("capabilities", kernel, "hold_capabilities"),
    Probe("becoming root", kernel, "become_root"),
    Probe("setuid programs", kernel, "privileged_programs"),
    Probe("an administrator's system calls", kernel, "system_calls"),
    Probe("core_pattern, release_agent", kernel, "kernel_parameters"),
    Probe("a core dump", kernel, "core_dump"),
    Probe("hammering the door", door, "hammer", {"most": "door_requests", "burst": "door_burst"}, alone=True),
    Probe("a fork bomb", resources, "fork_bomb", {"most": "processes"}, alone=True),
    Probe("a memory hog", resources, "memory_hog", {"most_mib": "memory_mib"}, alone=True),
    Probe("TCP buffers", resources, "fill_tcp_buffers", {"most_mib": "tcp_mib"}, alone=True),
    Probe(
        "filling the host's disk",
        resources,
        "fill",
        {"directories": "scratch", "most_mib": "filler_mib"},
        alone=True,
    ),
    Probe(
        "very many files", resources, "many_files", {"directories": "scratch", "most": "files"}, alone=True
    ),
    Probe("open files", resources, "open_files", {"most": "open_files"}),
    Probe("a log flood", resources, "flood_log", {"mib": "log_mib"}, alone=True),
    Probe("a process that outlives the lease", resources, "linger", {"seconds": "linger_seconds"}),
)

# Runs after the session has ended.
ENDED = OutsideProbe("SSH with an ended session's key", logins.with_an_ended_sessions_key)

OUTSIDE: tuple[OutsideProbe, ...] = (
    OutsideProbe("the API without a token", api.without_a_token),
    OutsideProbe("the API with a forged token", api.with_a_forged_token),
    OutsideProbe("the API in the wrong role", api.with_the_wrong_role),
    OutsideProbe("the API for another user", api.as_another_user),
    OutsideProbe("the API with an expired token", api.with_an_expired_token),
    OutsideProbe("paths, YAML and shell in names", api.smuggled_names),
    OutsideProbe("a session without a key", api.keyless_sessions),
    OutsideProbe("the API, a flood of health checks", api.flooded_health_checks),
    OutsideProbe("SSH with another user's key", logins.with_another_users_key),
    OutsideProbe("SSH without a key", logins.with_a_password),
    OutsideProbe("SSH as users without a session", logins.without_a_session),
    OutsideProbe("a session with a changed host key", logins.with_a_changed_host_key),
    OutsideProbe("a session from another account of the host", accounts.around_the_entry_point),
    OutsideProbe("the egress proxy's own connections", proxies.beyond_the_allowlist),
    ENDED,
)
