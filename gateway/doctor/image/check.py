"""Whether sessions can run on an image: start a container on it as the gateway does, log in and examine it.

`docker/check-image IMAGE` runs this module.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from docker.errors import ImageNotFound

from gateway.app import limits_of
from gateway.doctor.image.session import USER, ImageSession, image_session
from gateway.domain.plan import SSH_PORT
from gateway.errors import GatewayError, ImageMissing
from gateway.repositories.docker.client import Docker, translated_errors
from gateway.repositories.docker.limits import Limits
from gateway.settings import Settings

_TERMINALS = "xterm-kitty xterm-ghostty alacritty foot wezterm konsole-256color st-256color putty-256color"
_PREPARE = "run docker/prepare-image in its Dockerfile"


class Verdict(StrEnum):
    OK = "ok"
    NOTE = "note"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    verdict: Verdict
    detail: str


def check_image(docker: Docker, image: str, limits: Limits) -> Iterator[Finding]:
    """Findings as they are made. Raises `DockerUnavailable`, and `ImageMissing` for an unknown image."""
    with translated_errors():
        try:
            config = docker.client.images.get(image).attrs["Config"]
        except ImageNotFound:
            raise ImageMissing(f"Docker has no image {image!r}: build or pull it first.") from None
    yield from configuration_findings(config, limits.tmp)
    try:
        with image_session(docker, image, limits) as session:
            yield Finding("start", Verdict.OK, "sshd answers, without root, capabilities and a writable root")
            yield from _session_findings(session)
    except GatewayError as error:
        yield Finding("start", Verdict.FAILED, str(error))


def configuration_findings(config: Mapping[str, Any], scratch_size: str) -> Iterator[Finding]:
    """What a session does with the `Config` of an image that has more than files."""
    replaced = [name for name in ("Entrypoint", "Cmd", "User", "WorkingDir") if config.get(name)]
    replaced += ["Healthcheck"] if (config.get("Healthcheck") or {}).get("Test", ["NONE"]) != ["NONE"] else []
    names = ", ".join(name.upper() for name in replaced)
    detail = f"{names}: a session replaces them by its own" if names else "nothing that a session replaces"
    yield Finding("configuration", Verdict.OK, detail)
    if volumes := sorted(config.get("Volumes") or ()):
        detail = f"VOLUME {' '.join(volumes)}: an empty temporary directory of {scratch_size} in each session"
        yield Finding("volumes", Verdict.NOTE, detail)


def _session_findings(session: ImageSession) -> Iterator[Finding]:
    code, output = session.run("echo $SHELL")
    if code:
        yield Finding("login", Verdict.FAILED, output)
        return
    yield Finding("login", Verdict.OK, f"the shell is {output}")
    yield _sftp(session)
    yield _home(session)
    yield _path(session)
    yield _locale(session)
    yield _terminals(session)
    yield from _sshd_options(session)
    yield _log(session)


def _sftp(session: ImageSession) -> Finding:
    code, output = session.sftp()
    return Finding("sftp", Verdict.FAILED, output) if code else Finding("sftp", Verdict.OK, "works")


def _home(session: ImageSession) -> Finding:
    code, output = session.run("touch ~/file /tmp/file && mkdir -p ~/.local/bin")
    if code:
        return Finding("home", Verdict.FAILED, output)
    return Finding("home", Verdict.OK, "home directory and /tmp are writable")


def _path(session: ImageSession) -> Finding:
    _, output = session.run("$SHELL -lc 'echo $PATH'")
    if f"/home/{USER}/.local/bin" in output.split(":"):
        return Finding("PATH", Verdict.OK, output)
    detail = f"login shells have {output}: let /etc/profile read /etc/profile.d/*.sh"
    return Finding("PATH", Verdict.FAILED, detail)


def _locale(session: ImageSession) -> Finding:
    code, output = session.run("echo $LANG; locale charmap")
    if code == 127:
        return Finding("locale", Verdict.NOTE, f"{output.split()[0]}; the image has no `locale` to check it")
    if output.splitlines()[1:] == ["UTF-8"]:
        return Finding("locale", Verdict.OK, output.split()[0])
    language = output.splitlines()[0]
    return Finding("locale", Verdict.FAILED, f"the image lacks {language}: set `ENV LANG=C.UTF-8`")


def _terminals(session: ImageSession) -> Finding:
    known = "infocmp $name > /dev/null 2>&1"
    _, unknown = session.run(f"for name in {_TERMINALS}; do {known} || echo $name; done")
    if not unknown:
        return Finding("terminals", Verdict.OK, "all are known")
    detail = f"{' '.join(unknown.split())}: sessions take them for xterm-256color; install ncurses-term"
    return Finding("terminals", Verdict.NOTE, detail)


def _sshd_options(session: ImageSession) -> Iterator[Finding]:
    """sshd's own view of its configuration, with the image's /etc/ssh/sshd_config.d."""
    code, output = session.run("/usr/sbin/sshd -T -f /etc/gateway/sshd_config")
    options = [line.partition(" ")[::2] for line in output.splitlines()]
    ports = [value for name, value in options if name == "port"]
    penalties = [value for name, value in options if name == "persourcepenalties"]
    if code or ports != [str(SSH_PORT)]:
        detail = f"ports {', '.join(ports) or 'unknown'}: remove Port from /etc/ssh/sshd_config.d"
        yield Finding("sshd", Verdict.FAILED, output if code else detail)
    elif penalties not in ([], ["no"]):
        detail = f"it locks out the router after failures, and so all users: {_PREPARE}"
        yield Finding("sshd", Verdict.FAILED, detail)
    else:
        yield Finding("sshd", Verdict.OK, "its options are the gateway's")


def _log(session: ImageSession) -> Finding:
    if re.search(r"^Accepted publickey", session.log(), re.MULTILINE):
        return Finding("log", Verdict.OK, "users cannot write to it")
    return Finding("log", Verdict.NOTE, f"off, because users can read sshd: {_PREPARE}")


def main() -> None:
    """Print a line for each finding; exit with 0 if the image is fit, else with 1."""
    settings = Settings.from_env()
    try:
        is_fit = report(sys.argv[1] if len(sys.argv) > 1 else settings.image, settings)
    except GatewayError as error:
        sys.exit(f"error: {error}")
    sys.exit(not is_fit)


def report(image: str, settings: Settings) -> bool:
    """Print a line for each finding, and return whether the image is fit. Raises as `check_image` does."""
    failed = False
    for finding in check_image(Docker(), image, limits_of(settings)):
        failed |= finding.verdict is Verdict.FAILED
        print(f"{finding.verdict:<7} {finding.name:<14} {finding.detail}", flush=True)
    print(f"{image} is {'not fit' if failed else 'fit'} for sessions")
    return not failed


if __name__ == "__main__":
    main()
