"""What the suites promise about themselves."""

import pytest

pytest_plugins = ["pytester"]

SKIPPED = "import pytest\n\n{mark}\ndef test_over_docker():\n    pytest.skip('no Docker here')\n"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Other tests, under the rules of these."""
    pytester.makeini("[pytest]\nmarkers = may_be_skipped")
    pytester.makeconftest("from tests.conftest import pytest_runtest_makereport")
    return pytester


@pytest.mark.parametrize(
    ("ci", "mark", "outcome"),
    [
        ("true", "", {"failed": 1}),
        ("true", "@pytest.mark.may_be_skipped", {"skipped": 1}),
        ("", "", {"skipped": 1}),
    ],
)
def test_a_test_that_is_skipped_fails_in_continuous_integration(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, mark: str, outcome: dict[str, int]
) -> None:
    monkeypatch.setenv("CI", ci)
    project.makepyfile(SKIPPED.format(mark=mark))
    project.runpytest().assert_outcomes(**outcome)
