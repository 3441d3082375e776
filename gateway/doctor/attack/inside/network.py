"""Out of the session by the network. Whatever comes back, a refusal too, means that packets got there."""

import contextlib
import errno
import fcntl
import select
import socket
import struct
import time

_PATIENCE = 1.0  # seconds that any answer may take
_SIOCSIFADDR = 0x8916
_SIOCSARP = 0x8955
_DOCKERS_RESOLVER = "0B00007F"  # 127.0.0.11 as /proc/net/udp writes it


def reach_tcp(addresses: list[str], ports: list[int]) -> str:
    """A TCP connection to any of the ports of any of the addresses, all tried at once."""
    waiting, deadline = {}, time.monotonic() + _PATIENCE
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in ports:
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.setblocking(False)
            number = connection.connect_ex(socket.getaddrinfo(address, port, family)[0][4])
            if number in (0, errno.ECONNREFUSED):
                return f"{address} port {port} answers"
            if number == errno.EINPROGRESS:
                waiting[connection] = f"{address} port {port}"
            else:
                connection.close()
    while waiting and (left := deadline - time.monotonic()) > 0:
        for connection in select.select([], list(waiting), [], left)[1]:
            target = waiting.pop(connection)
            number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            connection.close()
            if number in (0, errno.ECONNREFUSED):
                return f"{target} answers"
    raise TimeoutError(f"no answer from {len(addresses)} addresses, {len(ports)} ports each")


def reach_by_name(names: list[str], ports: list[int]) -> str:
    """As `reach_tcp`, by the names that Docker's resolver gives."""
    found = []
    for name in names:
        with contextlib.suppress(socket.gaierror):
            found.append(socket.gethostbyname(name))
    if not found:
        raise ConnectionError("the names do not resolve")
    return reach_tcp(found, ports)


def reach_udp(addresses: list[str], ports: list[int]) -> str:
    """A datagram that is answered, or refused by the target itself; all are sent at once."""
    waiting = {}
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in ports:
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            with contextlib.suppress(OSError):  # there may be no way to send it
                datagrams.connect(socket.getaddrinfo(address, port, family)[0][4])
                datagrams.send(b"?")
                waiting[datagrams] = f"{address} port {port} answers"
    return _answered(waiting)


def ping(addresses: list[str]) -> str:
    """An ICMP echo, by the sockets that need no privilege."""
    waiting = {}
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        protocol, kind = (socket.IPPROTO_ICMPV6, 128) if ":" in address else (socket.IPPROTO_ICMP, 8)
        echo = socket.socket(family, socket.SOCK_DGRAM, protocol)
        with contextlib.suppress(OSError):
            echo.sendto(struct.pack("!BBHHH", kind, 0, 0, 0, 1), (address, 0))
            waiting[echo] = f"{address} answers a ping"
    return _answered(waiting)


def _answered(waiting: dict[socket.socket, str]) -> str:
    """The first to which something comes back, a refusal too."""
    deadline = time.monotonic() + _PATIENCE
    while waiting and (left := deadline - time.monotonic()) > 0:
        for answered in select.select(list(waiting), [], [], left)[0]:
            told = waiting.pop(answered)
            try:
                answered.recv(64)
            except ConnectionRefusedError:
                return told
            except OSError:  # no way to there: a router's word, or the kernel's own
                continue
            return told
    raise TimeoutError("no answer")


def ping_ipv6(addresses: list[str]) -> str:
    """An ICMPv6 echo to link-local addresses and to all nodes of the link."""
    failures = []
    for _, interface in socket.if_nameindex():
        for address in [*addresses, "ff02::1", "ff02::2"]:
            try:
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6) as echo:
                    echo.settimeout(_PATIENCE / 4)
                    where = socket.getaddrinfo(f"{address}%{interface}", 0, socket.AF_INET6)[0][4]
                    echo.sendto(struct.pack("!BBHHH", 128, 0, 0, 0, 1), where)
                    answer, sender = echo.recvfrom(64)
            except OSError as error:
                failures.append(str(error))
                continue
            return f"{sender[0]} answers a ping"
    raise ConnectionError(f"no answer: {failures[-1]}")


def learn_mac_address(addresses: list[str]) -> str:
    """The hardware address of another session, by ARP: whoever answers it shares a link."""
    with contextlib.suppress(TimeoutError):
        reach_udp(addresses, [9])
    with open("/proc/net/arp") as file:
        entries = [line.split() for line in file][1:]
    for address, _kind, flags, mac, *_ in entries:
        if address in addresses and int(flags, 16):
            return f"{address} has the hardware address {mac}"
    raise TimeoutError("no answer to ARP requests")


def ask_dockers_resolver(names: list[str]) -> str:
    """Docker's own resolver, by packets of one's own: it knows the names of all containers of the network,
    and each question costs the daemon memory."""
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
        asking.settimeout(_PATIENCE / 4)
        asking.connect(("127.0.0.11", port))
        asking.send(query)
        return bool(asking.recv(512))
    return False


def resolve_outside(name: str) -> str:
    """A name of the world, by the session's resolver: an answer would be a way to carry data out."""
    return f"{name} is {socket.gethostbyname(name)}"


def misuse_proxy(proxies: list[str], addresses: list[str]) -> str:
    """What the proxy to the outside is not there for: the host, other sessions, other ports and names,
    itself. Any answer but a denial means that it tried."""
    if not proxies:
        raise NotImplementedError("there is no proxy")
    goals = [f"{address}:{port}" for address in addresses for port in (22, 80, 2222, 8080)]
    goals += [*proxies, "localhost:3128", "example.com:22", "example.com.:443"]
    paths = [f"http://{goal}/{path}" for goal in goals for path in ("", "squid-internal-mgr/menu")]
    requests = [f"CONNECT {goal}" for goal in goals] + [f"GET {path}" for path in paths]
    for proxy in proxies:
        for request in requests:
            if (answer := _asked(proxy, request)) != "403":
                return f"{request} is answered {answer}"
    raise PermissionError(errno.EACCES, f"{len(requests)} requests were denied")


def _asked(proxy: str, request: str) -> str:
    """The status with which a proxy answers. Raises `RuntimeError`: without an answer nothing was tried."""
    host, _, port = proxy.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(f"{request} HTTP/1.1\r\nHost: {request.split()[1]}\r\n\r\n".encode())
            return connection.recv(64).split()[1].decode()
    except (OSError, IndexError) as error:
        raise RuntimeError(f"the proxy does not answer: {error}") from error


def raw_sockets() -> str:
    """Sockets that could forge addresses: IP, ICMP, packets of any kind, and the hypervisor's."""
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
            return f"{family.name} {kind.name} opens"
    raise failures[0]


def take_address(addresses: list[str]) -> str:
    """Take another session's address: bind it, and put it on the interface."""
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
    """An ARP entry, or a kernel parameter of the network, of one's own."""
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
