"""docker/check-image on images of all kinds."""

import os
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO

import pytest

from gateway.repositories.docker.client import Docker
from tests import own
from tests.paths import REPOSITORY

BASE = os.environ.get("GATEWAY_IMAGE", "gpu-workspace")
TAG = own.name("image-to-check")

Report = tuple[int, dict[str, tuple[str, str]], str]


def check(image: str) -> Report:
    """The exit status, verdict and detail of each finding by its name, and all that was printed."""
    done = subprocess.run(
        [REPOSITORY / "docker/check-image", image], capture_output=True, text=True, timeout=120
    )
    printed = done.stdout + done.stderr
    found = [
        line.split(maxsplit=2) for line in printed.splitlines() if line.startswith(("ok", "note", "failed"))
    ]
    return done.returncode, {name: (verdict, detail) for verdict, name, detail in found}, printed


@pytest.fixture
def check_image_with() -> Iterator[Callable[[str], Report]]:
    """Check an image that has these lines of a Dockerfile on top of the workspace image."""
    docker = Docker().client

    def build_and_check(lines: str) -> Report:
        recipe = BytesIO(f"FROM {BASE}\n{lines}\n".encode())
        docker.images.build(fileobj=recipe, tag=TAG, network_mode="none", rm=True, forcerm=True)
        return check(TAG)

    yield build_and_check
    docker.images.remove(TAG, force=True)


def test_the_workspace_image_is_fit_and_nothing_of_the_check_is_left() -> None:
    status, findings, printed = check(BASE)
    assert status == 0, printed
    assert {verdict for verdict, _ in findings.values()} == {"ok"}
    docker = Docker().client
    assert not [network for network in docker.networks.list() if "image-check" in str(network.name)]
    assert not docker.containers.list(all=True, ignore_removed=True, filters={"name": "image-check"})


def test_an_image_that_is_missing_is_an_error_in_one_line() -> None:
    status, _, printed = check("no-such-image-here")
    assert (status, printed.splitlines()) == (
        1,
        ["error: Docker has no image 'no-such-image-here': build or pull it first."],
    )


# What makes sessions fail on an image: the finding that fails, and a word of its explanation.
@pytest.mark.parametrize(
    ("lines", "finding", "word"),
    [
        ("RUN rm /usr/sbin/sshd", "start", "sshd"),
        ("RUN rm /usr/bin/sh", "start", "/bin/sh"),
        ("RUN echo UsePAM maybe > /etc/ssh/sshd_config.d/a.conf", "start", "a.conf line 1"),
        ("RUN echo Port 2022 > /etc/ssh/sshd_config.d/a.conf", "sshd", "remove Port"),
        ("RUN rm -r /etc/ssh/sshd_config.d", "sshd", "locks out"),
        ("ENV LANG=ko_KR.UTF-8", "locale", "lacks ko_KR.UTF-8"),
        ("RUN echo PATH=/usr/bin:/bin > /etc/profile", "PATH", "/etc/profile.d"),
    ],
)
def test_what_makes_sessions_fail_is_named(
    check_image_with: Callable[[str], Report], lines: str, finding: str, word: str
) -> None:
    status, findings, printed = check_image_with(lines)
    assert (status, findings[finding][0]) == (1, "failed"), printed
    assert word in findings[finding][1]
    assert any(line.endswith("is not fit for sessions") for line in printed.splitlines()), printed


# What sessions work with, but differently from a plain `docker run`.
@pytest.mark.parametrize(
    ("lines", "finding", "verdict", "word"),
    [
        ('ENTRYPOINT ["/entry"]\nUSER nobody\nHEALTHCHECK CMD true', "configuration", "ok", "ENTRYPOINT, "),
        ("VOLUME /data", "volumes", "note", "/data"),
        ("RUN chmod 0755 /usr/sbin/sshd", "log", "note", "prepare-image"),
        ("RUN rm -r /usr/share/terminfo", "terminals", "note", "xterm-kitty"),
        ("RUN rm /usr/bin/bash", "login", "ok", "/bin/sh"),
    ],
)
def test_what_sessions_do_differently_is_named(
    check_image_with: Callable[[str], Report], lines: str, finding: str, verdict: str, word: str
) -> None:
    status, findings, printed = check_image_with(lines)
    assert status == 0, printed
    assert findings[finding][0] == verdict
    assert word in findings[finding][1]
