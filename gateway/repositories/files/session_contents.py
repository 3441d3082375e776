"""What the files of a session contain: accounts, sshd's configuration, environment, message of the day."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from gateway.domain import session_texts
from gateway.domain.mig import Gpu
from gateway.domain.plan import SSH_PORT, Allocation, SessionRequest
from gateway.languages import ENGLISH
from gateway.repositories.files.board import line

PROGRAMS = ("etc/shell", "etc/bin/lease")  # the files that a session executes directly

_SCRIPTS = files(__package__) / "scripts"
# PAM, passwords and a pid file need root. sshd uses the first value of an option, so the image's own
# configuration comes last. The login shell shows the message of the day.
_SSHD_CONFIG = """\
Port {port}
HostKey /etc/gateway/ssh_host_ed25519_key
AuthorizedKeysFile /etc/gateway/authorized_keys
AllowUsers {user}
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
PrintLastLog no
PrintMotd no
MaxStartups 200:30:400
MaxSessions 200
ClientAliveInterval 60
ClientAliveCountMax 3
StreamLocalBindUnlink yes
X11Forwarding no
PermitTunnel no
PermitUserEnvironment no
AcceptEnv COLORTERM
Subsystem sftp internal-sftp
{options}SetEnv LANG=C.UTF-8 {environment}
Include /etc/ssh/sshd_config.d/*.conf
"""
# Each extension changes the end of the lease, so a login reads it from the file that the gateway updates.
_LEASE_ENDS = """\
while IFS='=' read -r fact value; do
    if [ "$fact" = ends ]; then export GATEWAY_LEASE_ENDS="$value"; fi
done 2> /dev/null < /etc/gateway/lease
unset fact value"""


@dataclass(frozen=True, slots=True)
class EgressProxy:
    """The URL of the proxy, and the destinations it allows, each as `HOST:PORT`."""

    proxy: str
    hosts: Sequence[str]


@dataclass(frozen=True, slots=True)
class SliceText:
    """What the files say about the session's slice. `card` names the GPU; empty if it is not known yet.
    `mig_uuid` is None if it is not known yet."""

    profile: str
    card: str = ""
    mig_uuid: str | None = None

    @classmethod
    def of(cls, gpu: Gpu, allocation: Allocation, language: str = ENGLISH) -> "SliceText":
        profile = gpu.profile(allocation.profile)
        memory_mib = profile.memory_mib if profile else None
        card = session_texts.card(language, memory_mib, gpu.name, gpu.simulated)
        return cls(allocation.profile, card, allocation.mig_uuid)


def contents(
    request: SessionRequest,
    slice_: SliceText,
    egress: EgressProxy | None = None,
    sshd_options: str = "",
    language: str = ENGLISH,
) -> Mapping[str, str]:
    """Return the text of each file, by its path below the session's directory. The private host key is not
    included, because it is the only file with its own owner and mode. `sshd_options` are further lines of
    sshd's configuration. The user reads texts in `language`."""
    environment = _environment(slice_, egress)
    user, uid = request.user_id, request.uid
    return {
        "passwd": (
            "root:x:0:0:root:/root:/usr/sbin/nologin\n"
            "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            f"{user}:x:{uid}:{uid}:{user}:/home/{user}:/etc/gateway/shell\n"
        ),
        "group": f"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n{user}:x:{uid}:\n",
        "etc/sshd_config": _SSHD_CONFIG.format(
            port=SSH_PORT,
            user=user,
            environment=" ".join(f"{name}={value}" for name, value in environment.items()),
            options=sshd_options,
        ),
        "etc/authorized_keys": request.router_key + "\n",
        "etc/environment.sh": _exports(environment),
        "etc/words.sh": _words(language),
        "etc/motd": _message_of_the_day(request, slice_, egress, language),
        "etc/start": (_SCRIPTS / "start.sh").read_text(),
        "etc/shell": (_SCRIPTS / "shell.sh").read_text(),
        "etc/bin/lease": (_SCRIPTS / "lease.sh").read_text(),
    }


def _environment(slice_: SliceText, egress: EgressProxy | None) -> dict[str, str]:
    """The environment of a login. It overrides that of the image and that of the SSH client."""
    visible = {"NVIDIA_VISIBLE_DEVICES": slice_.mig_uuid} if slice_.mig_uuid else {}
    environment = {
        **visible,
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "GATEWAY_MIG_PROFILE": slice_.profile,
    }
    if egress:
        proxies = dict.fromkeys(("http_proxy", "https_proxy"), egress.proxy)
        proxies["no_proxy"] = "localhost,127.0.0.1"
        environment |= proxies | {name.upper(): value for name, value in proxies.items()}
    return environment


def _exports(environment: Mapping[str, str]) -> str:
    """A script that the login shell reads, and bash and sh after /etc/profile has set PATH."""
    lines = [f"export {name}={value}" for name, value in environment.items()]
    return "\n".join([*lines, _LEASE_ENDS, 'PATH="${SESSION_PATH:-$PATH}"', ""])


def _words(language: str) -> str:
    """A script that the other scripts read: variables with their sentences."""
    texts = session_texts.script_texts(language)
    return "".join(f"{name}={shlex.quote(text)}\n" for name, text in texts.items())


def _message_of_the_day(
    request: SessionRequest, slice_: SliceText, egress: EgressProxy | None, language: str
) -> str:
    hosts = ", ".join(egress.hosts) if egress else None
    shown = f"{slice_.profile}{slice_.card}"
    if slice_.mig_uuid:
        shown += "\n" + line("", slice_.mig_uuid)
    facts = session_texts.facts(language, shown, hosts)
    lines = "".join(f"{line(label, text)}\n" for label, text in facts.items())
    return f"\n  {session_texts.welcome(language, request.user_id)}\n\n{lines}"
