"""The documents: every link leads somewhere, every page is reachable, and promised commands are shown."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.settings import Settings
from gateway.settings.names import flag

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What the first users of the gateway were promised, word for word.
COMMANDS = (
    "docker build -f Dockerfile.gpu-workspace -t gpu-workspace .",
    "sudo mkdir -p /srv/workspaces /var/lib/orchestrator /etc/sshpiper",
    "docker-compose up -d",
    "curl -X POST http://localhost:8080/sessions \\",
    '-d \'{"user_id": "user123", "ttl_minutes": 60, "mig_profile": "3g.20gb"}\'',
    "ssh user123@ssh.gw",
    "curl http://localhost:8080/sessions",
    "curl http://localhost:8080/sessions/abc-123-def",
    "curl -X DELETE http://localhost:8080/sessions/abc-123-def",
    "curl http://localhost:8080/gpus",
    "curl http://localhost:8080/gpus/profiles",
    "docker logs gpu-ssh-orchestrator",
    "docker logs sshpiper",
    "docker logs user123-container",
    "nvidia-smi -i 0 --query-gpu=mig.mode.current --format=csv",
    "sudo nvidia-smi -i 0 -mig 1",
    "cat /etc/sshpiper/pipe.yaml",
    "docker network inspect worknet",
    "docker run --rm --gpus all nvidia/cuda:12.2-runtime-ubuntu24.04 nvidia-smi",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = [link for link in _local_links(page) if not _exists(page, link)]
    assert broken == []


def test_every_page_is_reachable_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [README]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [(page.parent / link.partition("#")[0]).resolve() for link in _local_links(page)]
    assert sorted(str(page) for page in set(PAGES) - reached) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_promised_command_is_shown_word_for_word(command: str) -> None:
    assert any(command in page.read_text() for page in PAGES)


def test_the_readme_can_be_read_in_five_minutes() -> None:
    assert len(README.read_text().split()) <= 1300, "move what only some readers need to a page in docs/"


def test_no_two_pages_differ_only_by_case() -> None:
    """Such a checkout loses one of them on a file system that ignores case."""
    names = [str(page.relative_to(ROOT)).lower() for page in PAGES]
    assert len(set(names)) == len(names)


def _local_links(page: Path) -> list[str]:
    links = _LINK.findall(page.read_text())
    return [link for link in links if not link.startswith(("http://", "https://"))]


def _exists(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not anchor or anchor in map(_anchor, _HEADING.findall(target.read_text())))


def _anchor(heading: str) -> str:
    """The id that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_settings_page_explains_each_setting_once_and_no_other() -> None:
    explained = re.findall(r"^\| `(--[a-z-]+)", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(flag(field.name) for field in fields(Settings))
