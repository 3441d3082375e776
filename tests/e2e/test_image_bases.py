"""docker/prepare-image and docker/check-image on Debian 12, with the configuration of vendors' images.

The base is made from packages once, and kept. The images have the configuration of `nvidia/cuda` and
`pytorch/pytorch`, not their programs.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.repositories.docker.client import Docker
from tests import own
from tests.e2e.test_checking_an_image import Report, check
from tests.paths import REPOSITORY

BASE = "gateway-tests-debian:bookworm"
TAG = own.name("image-on-a-base")
_MAKE = """
. docker/steps.sh
mirror=$(mirror '^bookworm$')
mmdebstrap --quiet --variant=minbase --include=openssh-server,python3-venv \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    bookworm "$2" "deb ${mirror:-http://deb.debian.org/debian} bookworm main"
docker import "$2" "$1"
"""

CUDA = r"""
RUN mkdir -p /opt/nvidia /usr/local/cuda/bin /usr/local/cuda/lib64 \
    && printf '#!/bin/sh\necho CUDA Version 12.9; exec "$@"\n' > /opt/nvidia/nvidia_entrypoint.sh \
    && printf '#!/bin/sh\necho release 12.9\n' > /usr/local/cuda/bin/nvcc \
    && chmod 0755 /opt/nvidia/nvidia_entrypoint.sh /usr/local/cuda/bin/nvcc
ENV PATH=/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV LD_LIBRARY_PATH=/usr/local/cuda/lib64 NVIDIA_VISIBLE_DEVICES=all NVIDIA_REQUIRE_CUDA="cuda>=12.9"
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh"]
"""
PYTORCH = r"""
RUN python3 -m venv --without-pip /opt/conda && mkdir -m 0777 /workspace
ENV PATH=/opt/conda/bin:/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin
ENV LANG=C.UTF-8 LD_LIBRARY_PATH=/usr/local/nvidia/lib PYTORCH_VERSION=2.9.0
HEALTHCHECK CMD python -c 'import torch'
VOLUME /workspace
WORKDIR /workspace
USER nobody
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not Docker().client.images.list(BASE):
        archive = tmp_path_factory.mktemp("base") / "bookworm.tar"
        command = ["sh", "-ec", _MAKE, "sh", BASE, str(archive)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500)
        archive.unlink(missing_ok=True)
        assert done.returncode == 0, done.stderr
    return BASE


@pytest.fixture
def check_on(base: str, tmp_path: Path) -> Iterator[Callable[[str], Report]]:
    """Check an image of these lines on the base, prepared as docs/images.md says."""
    docker = Docker().client
    shutil.copy(REPOSITORY / "docker/prepare-image", tmp_path)

    def build_and_check(lines: str) -> Report:
        prepare = "COPY prepare-image /usr/local/sbin/\nRUN rm /etc/ssh/ssh_host_* && prepare-image\n"
        (tmp_path / "Dockerfile").write_text(f"FROM {base}\n{prepare}{lines}\n")
        docker.images.build(path=str(tmp_path), tag=TAG, network_mode="none", rm=True, forcerm=True)
        return check(TAG)

    yield build_and_check
    docker.images.remove(TAG, force=True)


def test_debian_12_with_sshd_alone_is_fit(check_on: Callable[[str], Report]) -> None:
    status, findings, printed = check_on("")
    assert status == 0, printed
    assert {name for name, (verdict, _) in findings.items() if verdict != "ok"} <= {"terminals"}, printed


def test_an_image_with_the_configuration_of_cuda_is_fit(check_on: Callable[[str], Report]) -> None:
    status, findings, printed = check_on(CUDA)
    assert status == 0, printed
    assert findings["configuration"] == ("ok", "ENTRYPOINT: a session replaces them by its own")
    assert "/usr/local/cuda/bin" in findings["PATH"][1]


def test_an_image_with_the_configuration_of_pytorch_is_fit(check_on: Callable[[str], Report]) -> None:
    status, findings, printed = check_on(PYTORCH)
    assert status == 0, printed
    assert "USER" in findings["configuration"][1]
    assert "HEALTHCHECK" in findings["configuration"][1]
    assert findings["volumes"][0] == "note"
    assert "/workspace" in findings["volumes"][1]
    assert "/opt/conda/bin" in findings["PATH"][1]


def test_an_image_whose_user_takes_sshd_away_is_not_fit(check_on: Callable[[str], Report]) -> None:
    """A slim stage of a build that forgot the server."""
    status, findings, printed = check_on("RUN rm /usr/sbin/sshd")
    assert (status, findings["start"][0]) == (1, "failed"), printed
    assert "sshd" in findings["start"][1]
