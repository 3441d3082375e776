"""The lock files: complete, in step with setup.cfg, and bound to no package index."""

import configparser
import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.audit import vulnerabilities

ROOT = Path(__file__).parents[2]
PRODUCTION, TESTS = ROOT / "requirements.txt", ROOT / "requirements-test.txt"
TEST_TOOLS = {"pytest", "hypothesis", "schemathesis", "ruff", "mypy", "pip-audit", "pip-tools"}


def declared(*extras: str) -> list[Requirement]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    texts = [
        parser["options"]["install_requires"],
        *(parser["options.extras_require"][each] for each in extras),
    ]
    return [Requirement(line) for text in texts for line in text.split("\n") if line.split("#")[0].strip()]


def locked(path: Path) -> dict[str, str]:
    """The version of each package; fails for a line that names no exact one."""
    versions = {}
    for entry in re.split(r"\n(?=\S)", re.sub(r"(?m)^ *#.*\n", "", path.read_text())):
        if entry.strip():
            match = re.match(r"([a-z0-9-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\s*$", entry)
            assert match, f"{path.name} has an entry without version or hash: {entry!r}"
            versions[match[1]] = match[2]
    return versions


@pytest.mark.parametrize(("path", "extra"), [(PRODUCTION, "postgresql"), (TESTS, "test")])
def test_the_lock_file_satisfies_what_setup_cfg_declares(path: Path, extra: str) -> None:
    versions = locked(path)
    for requirement in declared(extra):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not locked: run `make lock`"
        locked_in_range = requirement.specifier.contains(versions[name])
        assert locked_in_range, f"{requirement} is locked to {versions[name]}: run `make lock`"


def test_what_tests_run_with_is_what_is_installed_in_production() -> None:
    production, tests = locked(PRODUCTION), locked(TESTS)
    assert {name: tests[name] for name in production} == production


def test_production_has_no_test_tools() -> None:
    assert not TEST_TOOLS & locked(PRODUCTION).keys()
    assert locked(TESTS).keys() >= TEST_TOOLS


@pytest.mark.parametrize("path", [PRODUCTION, TESTS])
def test_the_lock_file_names_no_package_index(path: Path) -> None:
    assert not re.search(r"https?:|--(extra-)?index-url|--trusted-host|--find-links", path.read_text())


def report(**package: object) -> str:
    return json.dumps({"dependencies": [{"name": "flask", "version": "3.1.0", "vulns": []}, package]})


def test_a_known_vulnerability_is_reported_with_the_version_that_mends_it() -> None:
    known = {"id": "PYSEC-2026-1", "fix_versions": ["2.0"]}
    assert vulnerabilities(report(name="h11", version="1.0", vulns=[known])) == [
        "h11 1.0 has PYSEC-2026-1: fixed in 2.0; run `make lock`"
    ]


def test_without_vulnerabilities_there_is_nothing_to_report() -> None:
    assert vulnerabilities(report(name="h11", version="1.0", vulns=[])) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "no vulnerability database answers"), (report(name="h11", skip_reason="unknown"), "know 1 of 2")],
)
def test_a_database_that_does_not_answer_is_not_taken_for_a_clean_result(text: str, why: str) -> None:
    found = vulnerabilities(text)
    assert isinstance(found, str)
    assert why in found
