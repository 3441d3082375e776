"""Which names a user of the gateway can have."""

import re

USER_ID = re.compile(r"[a-z_][a-z0-9_-]{0,31}")

# The accounts that Debian, Ubuntu and CUDA images are born with, and those that packages add to them.
SYSTEM_ACCOUNTS = frozenset(
    """
    root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody _apt
    sshd messagebus systemd-network systemd-resolve systemd-timesync systemd-coredump systemd-oom syslog
    uuidd tcpdump landscape pollinate fwupd-refresh usbmux dnsmasq avahi polkitd rtkit colord geoclue
    nvidia-persistenced docker postgres mysql redis ntp chrony statd _chrony _rpc ubuntu debian admin
    """.split()
)


def problem_with(user_id: str) -> str | None:
    """What is wrong with a user id, in a sentence; None when nothing is."""
    if not USER_ID.fullmatch(user_id):
        return "Use 1 to 32 of a-z, 0-9, _ and -, beginning with a letter or _."
    if user_id in SYSTEM_ACCOUNTS:
        return f"{user_id!r} is the name of a system account; choose another."
    return None
