"""The user ids that the gateway accepts."""

import re

# What Docker accepts in the name of a container, and Linux and SSHPiper in a login name. Upper and lower case
# are different users. A container's name cannot begin with ".", "_" or "-".
USER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")

GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")

# The accounts in Debian, Ubuntu and CUDA images, and those that common packages add.
SYSTEM_ACCOUNTS = frozenset(
    """
    root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody
    sshd messagebus systemd-network systemd-resolve systemd-timesync systemd-coredump systemd-oom syslog
    uuidd tcpdump landscape pollinate fwupd-refresh usbmux dnsmasq avahi polkitd rtkit colord geoclue
    nvidia-persistenced docker postgres mysql redis ntp chrony statd ubuntu debian admin
    """.split()
)


def problem_with(user_id: str) -> str | None:
    """Return what is wrong with a user id, as a sentence; None if it is valid."""
    if not USER_ID.fullmatch(user_id):
        return (
            "Use 1 to 32 characters of A-Z, a-z, 0-9, '.', '_' and '-'; the first must be a letter or a "
            "digit, because Docker names the user's container after it."
        )
    if user_id.lower() in SYSTEM_ACCOUNTS:
        return f"{user_id!r} is the name of a system account: choose another."
    return None


def problem_with_group(name: str) -> str | None:
    """Return what is wrong with the name of a group, as a sentence; None if it is valid."""
    if not GROUP.fullmatch(name):
        return "Use 1 to 32 characters of A-Z, a-z, 0-9, '.', '_' and '-', and begin with a letter or digit."
    return None
