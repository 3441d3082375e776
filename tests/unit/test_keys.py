import subprocess
from pathlib import Path

import pytest

from gateway.domain import ssh_keys
from gateway.errors import InvalidRequest


def problems(*lines: str) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        ssh_keys.parse_public_keys(lines)
    return refused.value.errors["ssh_public_keys"]


def keygen(directory: Path, *options: str) -> tuple[str, str]:
    """A pair made by OpenSSH itself: (private, public)."""
    file = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", file, *options], check=True)
    return file.read_text(), file.with_suffix(".pub").read_text()


@pytest.mark.parametrize("options", [["-t", "ed25519"], ["-t", "rsa", "-b", "2048"], ["-t", "ecdsa"]])
def test_a_public_key_made_by_openssh_is_accepted_without_its_comment(
    tmp_path: Path, options: list[str]
) -> None:
    _, public = keygen(tmp_path, *options, "-C", "me@laptop with spaces")
    assert ssh_keys.parse_public_keys([public]) == (" ".join(public.split()[:2]),)


def test_a_pair_made_here_is_read_by_openssh(tmp_path: Path) -> None:
    pair = ssh_keys.make_pair()
    private = tmp_path / "private"
    private.touch(mode=0o600)
    private.write_text(pair.private)
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-f", private], check=True, capture_output=True, text=True
    ).stdout
    assert shown.split() == pair.public.split()


def test_the_same_key_twice_counts_once(public_key: str) -> None:
    assert len(ssh_keys.parse_public_keys([public_key, public_key])) == 1


def test_a_private_key_is_refused_and_not_quoted() -> None:
    pair = ssh_keys.make_pair()
    [problem] = problems(pair.private)
    assert "PRIVATE" in problem
    assert pair.private.splitlines()[1] not in problem


def test_options_before_a_key_are_refused(public_key: str) -> None:
    assert "options" in problems(f'command="reboot",no-pty {public_key}')[0]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-dss AAAAB3NzaC1kc3MAAACBAP",
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJ7a2k1q5y3rZJ1J4a1J1q0q4n1b0d9G0lq6J6s1b2m3",
    ],
)
def test_a_line_that_is_not_a_public_key_is_refused(line: str) -> None:
    assert problems(line)[0].startswith("Key 1: ")


def test_a_newline_inside_a_key_cannot_add_a_second_one(public_key: str) -> None:
    assert problems(f"{public_key}\n{public_key}")


def test_a_weak_rsa_key_is_refused(tmp_path: Path) -> None:
    _, public = keygen(tmp_path, "-t", "rsa", "-b", "1024")
    assert "1024 bits" in problems(public)[0]


def test_each_invalid_key_is_named_by_its_position(public_key: str) -> None:
    assert [problem.split(":")[0] for problem in problems("x", public_key, "y")] == ["Key 1", "Key 3"]


@pytest.mark.parametrize("count", [0, 21])
def test_there_are_1_to_20_keys(count: int) -> None:
    assert "1 to 20" in problems(*[ssh_keys.make_pair().public for _ in range(count)])[0]
