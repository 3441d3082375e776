"""What is decided about a session before anything is made: address, slice, container, route."""

import ipaddress

from gateway.errors import NoCapacity
from gateway.host import SSH_PORT, SessionPlan, SliceLease
from gateway.keys import KeyPair
from gateway.models import Session
from gateway.pipe_file import Pipe

PROXY_PORT = 3128  # Squid's own


def free_address(subnet: ipaddress.IPv4Network, used: set[str]) -> str:
    taken = used | {proxy_address(subnet)}
    hosts = subnet.hosts()
    next(hosts)  # the bridge's own
    for address in hosts:
        if str(address) not in taken:
            return str(address)
    raise NoCapacity(f"All addresses of the sessions' network {subnet} are in use.")


def proxy_address(subnet: ipaddress.IPv4Network) -> str:
    """Where sessions find the way to what they may reach outside, at `PROXY_PORT`."""
    return str(subnet.network_address + 2)


def proxy(subnet: ipaddress.IPv4Network) -> str:
    """As ADDRESS:PORT."""
    return f"{proxy_address(subnet)}:{PROXY_PORT}"


def lease(session: Session) -> SliceLease | None:
    if session.gpu is None or session.placement is None:
        return None
    return SliceLease(session.gpu, session.mig_profile, session.placement, session.borrowed, session.gpu_uuid)


def plan(session: Session, uid: int, lease: SliceLease, router: KeyPair, sshd: KeyPair) -> SessionPlan:
    return SessionPlan(
        session_id=session.id,
        user_id=session.user_id,
        uid=uid,
        lease=lease,
        address=session.address,
        router_key=router.public,
        host_key=sshd,
        expires_at=session.expires_at,
    )


def pipe(session: Session) -> Pipe:
    return Pipe(
        session_id=session.id,
        username=session.user_id,
        public_keys=tuple(session.public_keys),
        host=session.address,
        port=SSH_PORT,
        private_key=session.private_key,
        host_key=session.host_key,
    )
