"""Attempts at the network. Any response means that packets reached the target.

A refusal is a response, too. Where a firewall on the way may refuse packets, `refusals` is False: then a
refusal proves nothing.
"""

import contextlib
import errno
import fcntl
import select
import socket
import struct
import time

_TIMEOUT = 1.0  # seconds for any response
_CROWD = 400  # connections, fewer than the 1024 that select can watch
_SIOCSIFADDR = 0x8916
_SIOCSARP = 0x8955
_DOCKERS_RESOLVER = "0B00007F"  # 127.0.0.11 as /proc/net/udp writes it


def reach_tcp(addresses: list[str], ports: list[int], refusals: bool = True) -> str:
    """Connect by TCP to every port of every address, all at once."""
    waiting, deadline = {}, time.monotonic() + _TIMEOUT
    answers = (0, errno.ECONNREFUSED) if refusals else (0,)
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in ports:
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.setblocking(False)
            number = connection.connect_ex(socket.getaddrinfo(address, port, family)[0][4])
            if number in answers:
                return f"{address} port {port} answers"
            if number == errno.EINPROGRESS:
                waiting[connection] = f"{address} port {port}"
            else:
                connection.close()
    while waiting and (remaining := deadline - time.monotonic()) > 0:
        for connection in select.select([], list(waiting), [], remaining)[1]:
            target = waiting.pop(connection)
            number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            connection.close()
            if number in answers:
                return f"{target} answers"
    raise TimeoutError(f"no answer from {len(addresses)} addresses, {len(ports)} ports each")


def reach_by_name(names: list[str], ports: list[int], refusals: bool = True) -> str:
    """Like `reach_tcp`, with names for Docker's resolver."""
    found = []
    for name in names:
        with contextlib.suppress(socket.gaierror):
            found.append(socket.gethostbyname(name))
    if not found:
        raise ConnectionError("the names do not resolve")
    return reach_tcp(found, ports, refusals)


def reach_udp(addresses: list[str], ports: list[int], refusals: bool = True) -> str:
    """Send a datagram to every port of every address, all at once."""
    waiting = {}
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in ports:
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            with contextlib.suppress(OSError):  # there may be no route
                datagrams.connect(socket.getaddrinfo(address, port, family)[0][4])
                datagrams.send(b"?")
                waiting[datagrams] = f"{address} port {port} answers"
    return _first_response(waiting, refusals)


def ping(addresses: list[str]) -> str:
    """Send an ICMP echo with sockets that need no privilege."""
    waiting = {}
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        protocol, kind = (socket.IPPROTO_ICMPV6, 128) if ":" in address else (socket.IPPROTO_ICMP, 8)
        echo = socket.socket(family, socket.SOCK_DGRAM, protocol)
        with contextlib.suppress(OSError):
            echo.sendto(struct.pack("!BBHHH", kind, 0, 0, 0, 1), (address, 0))
            waiting[echo] = f"{address} answers a ping"
    return _first_response(waiting)


def _first_response(waiting: dict[socket.socket, str], refusals: bool = True) -> str:
    """Return the text of the first socket with a response. Raises `TimeoutError` without one."""
    deadline = time.monotonic() + _TIMEOUT
    while waiting and (remaining := deadline - time.monotonic()) > 0:
        for readable in select.select(list(waiting), [], [], remaining)[0]:
            evidence = waiting.pop(readable)
            try:
                readable.recv(64)
            except ConnectionRefusedError:
                if not refusals:
                    continue
                return evidence
            except OSError:  # unreachable, says a router or the kernel itself
                continue
            return evidence
    raise TimeoutError("no answer")


def ping_ipv6(addresses: list[str]) -> str:
    """Send an ICMPv6 echo to link-local addresses and to all nodes of the link."""
    own, failures = _own_ipv6(), ["there is no other node"]
    for _, interface in socket.if_nameindex():
        for address in [*addresses, "ff02::1", "ff02::2"]:
            try:
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6) as echo:
                    echo.settimeout(_TIMEOUT / 4)
                    where = socket.getaddrinfo(f"{address}%{interface}", 0, socket.AF_INET6)[0][4]
                    echo.sendto(struct.pack("!BBHHH", 128, 0, 0, 0, 1), where)
                    _, sender = echo.recvfrom(64)
            except OSError as error:
                failures.append(str(error))
                continue
            if sender[0].partition("%")[0] not in own:
                return f"{sender[0]} answers a ping"
    raise ConnectionError(f"no answer: {failures[-1]}")


def _own_ipv6() -> set[str]:
    """Return the session's own addresses, which answer a ping to all nodes, too."""
    with contextlib.suppress(OSError), open("/proc/net/if_inet6") as file:
        return {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])) for line in file}
    return set()


def learn_mac_address(addresses: list[str]) -> str:
    """Learn another session's hardware address by ARP. A session that answers is on the same link."""
    with contextlib.suppress(TimeoutError):
        reach_udp(addresses, [9])
    with open("/proc/net/arp") as file:
        entries = [line.split() for line in file][1:]
    for address, _kind, flags, mac, *_ in entries:
        if address in addresses and int(flags, 16):
            return f"{address} has the hardware address {mac}"
    raise TimeoutError("no answer to ARP requests")


def ask_dockers_resolver(names: list[str]) -> str:
    """Query Docker's resolver directly.

    It knows the names of all containers of the network, and each query costs the daemon memory.
    """
    ports = {53}
    for protocol in ("udp", "tcp"):
        with open(f"/proc/net/{protocol}") as file:
            local = [line.split()[1].split(":") for line in list(file)[1:]]
        ports |= {int(port, 16) for address, port in local if address == _DOCKERS_RESOLVER}
    for port in sorted(ports):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            for name in names:
                if _resolver_answers(kind, port, name):
                    return f"127.0.0.11 port {port} answers for {name}"
    raise ConnectionError(f"no answer on {len(ports)} ports")


def _resolver_answers(kind: socket.SocketKind, port: int, name: str) -> bool:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)
    if kind is socket.SOCK_STREAM:
        query = struct.pack("!H", len(query)) + query
    with socket.socket(socket.AF_INET, kind) as asking, contextlib.suppress(OSError):
        asking.settimeout(_TIMEOUT / 4)
        asking.connect(("127.0.0.11", port))
        asking.send(query)
        return bool(asking.recv(512))
    return False


def resolve_outside(name: str) -> str:
    """Resolve an outside name with the session's resolver: an answer is a way to send data out."""
    return f"{name} is {socket.gethostbyname(name)}"


def misuse_proxy(proxies: list[str], addresses: list[str]) -> str:
    """Ask the egress proxy for the host, other sessions, other ports and names, and for itself.

    Any response except a denial means that the proxy tried.
    """
    if not proxies:
        raise NotImplementedError("there is no proxy")
    goals = [f"{address}:{port}" for address in addresses for port in (22, 80, 2222, 8080)]
    goals += [*proxies, "localhost:3128", "example.com:22", "example.com.:443"]
    paths = [f"http://{goal}/{path}" for goal in goals for path in ("", "squid-internal-mgr/menu")]
    requests = [f"CONNECT {goal}" for goal in goals] + [f"GET {path}" for path in paths]
    for proxy in proxies:
        for request in requests:
            if (status := _proxy_status(proxy, request)) != "403":
                return f"{request} is answered {status}"
    raise PermissionError(errno.EACCES, f"{len(requests)} requests were denied")


def crowd_proxy(proxies: list[str]) -> str:
    """Hold so many idle connections to the egress proxy that no other session gets one."""
    if not proxies:
        raise NotImplementedError("there is no proxy")
    for proxy in proxies:
        host, _, port = proxy.rpartition(":")
        with contextlib.ExitStack() as stack:
            held = [
                stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
                for _ in range(_CROWD)
            ]
            time.sleep(_TIMEOUT)
            closed = select.select(held, [], [], 0)[0]  # the proxy sends nothing before a request
        if not closed:
            return f"{proxy} keeps {_CROWD} idle connections of one session"
    raise ConnectionError(f"{proxy} closed {len(closed)} of {_CROWD} connections")


def _proxy_status(proxy: str, request: str) -> str:
    """Return the status of a proxy's response. Raises `RuntimeError` without one: then nothing was tried."""
    host, _, port = proxy.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(f"{request} HTTP/1.1\r\nHost: {request.split()[1]}\r\n\r\n".encode())
            return connection.recv(64).split()[1].decode()
    except (OSError, IndexError) as error:
        raise RuntimeError(f"the proxy does not answer: {error}") from error


def raw_sockets() -> str:
    """Open sockets that could forge addresses: raw IP, ICMP and packet sockets, and the hypervisor's."""
    failures = []
    for family, kind, protocol in (
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
        (socket.AF_PACKET, socket.SOCK_RAW, 0x0300),
        (socket.AF_PACKET, socket.SOCK_DGRAM, 0x0300),
        (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
    ):
        try:
            socket.socket(family, kind, protocol).close()
        except OSError as error:
            failures.append(error)
        else:
            return f"{family.name} {kind.name} can be opened"
    raise failures[0]


def take_address(addresses: list[str]) -> str:
    """Take another session's address: bind it, and assign it to the interface."""
    failure = OSError("no address to take")
    for address in addresses:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            try:
                datagrams.bind((address, 0))
                return f"{address} can be bound"
            except OSError as error:
                failure = error
            for interface in (name for _, name in socket.if_nameindex() if name != "lo"):
                request = struct.pack(
                    "16sHH4s8x", interface.encode(), socket.AF_INET, 0, socket.inet_aton(address)
                )
                try:
                    fcntl.ioctl(datagrams, _SIOCSIFADDR, request)
                    return f"{interface} has the address {address}"
                except OSError as error:
                    failure = error
    raise failure


def change_network() -> str:
    """Set an ARP entry and kernel parameters of the network."""
    entry = struct.pack("HH12x", socket.AF_INET, 0) + bytes(52)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCSARP, entry)
            return "an ARP entry can be set"
        except OSError as error:
            failure = error
    for parameter in ("ipv4/ip_forward", "ipv6/conf/all/disable_ipv6"):
        try:
            with open(f"/proc/sys/net/{parameter}", "w") as file:
                file.write("0")
            return f"{parameter} can be set"
        except OSError as error:
            failure = error
    raise failure
