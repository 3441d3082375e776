"""The user ids that the gateway accepts."""

import re

USER_ID = re.compile(r"[a-z_][a-z0-9_-]{0,31}")

# The accounts in Debian, Ubuntu and CUDA images, and those that common packages add.
SYSTEM_ACCOUNTS = frozenset(
    """
    root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody _apt
    sshd messagebus systemd-network systemd-resolve systemd-timesync systemd-coredump systemd-oom syslog
    uuidd tcpdump landscape pollinate fwupd-refresh usbmux dnsmasq avahi polkitd rtkit colord geoclue
    nvidia-persistenced docker postgres mysql redis ntp chrony statd _chrony _rpc ubuntu debian admin
    """.split()
)


def problem_with(user_id: str) -> str | None:
    """Return what is wrong with a user id, as a sentence; None if it is valid."""
    if not USER_ID.fullmatch(user_id):
        return "Use 1 to 32 characters of a-z, 0-9, _ and -; the first must be a letter or _."
    if user_id in SYSTEM_ACCOUNTS:
        return f"{user_id!r} is the name of a system account: choose another name."
    return None
