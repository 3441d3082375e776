"""The version of the NVIDIA container toolkit, as its program prints it."""

from pathlib import Path

import pytest

from gateway.repositories.docker.toolkit import toolkit_version


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo NVIDIA Container Toolkit CLI version 1.17.8; echo commit: f202b80", "1.17.8"),
        ("echo nothing", None),
        ("exit 1", None),
    ],
)
def test_the_version_is_what_the_program_prints(tmp_path: Path, script: str, version: str | None) -> None:
    program = tmp_path / "nvidia-ctk"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert toolkit_version(str(program)) == version


def test_without_the_program_the_version_is_unknown(tmp_path: Path) -> None:
    assert toolkit_version(str(tmp_path / "nvidia-ctk")) is None
