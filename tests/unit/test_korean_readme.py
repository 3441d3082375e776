"""The Korean README says what the English one says: the same commands, the same tables, the same links."""

import re

from tests.paths import REPOSITORY

ENGLISH = (REPOSITORY / "README.md").read_text()
KOREAN = (REPOSITORY / "docs/ko/README.md").read_text()
HANGUL = re.compile("[가-힣]")


def commands(text: str) -> list[str]:
    """The lines of all code blocks, without comments, drawings and what is translated in them."""
    fenced = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    indented = re.findall(r"^    (?! )(.+)$", text, re.M)
    lines = [*"".join(fenced).splitlines(), *indented]
    return [re.split(r"\s+#|\s{4,}", line)[0].rstrip() for line in lines]


def rows(text: str) -> list[list[str]]:
    """What each row of a table has in code, and how many cells it has."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[str(line.count("|")), *re.findall(r"`([^`]+)`", line)] for line in lines]


def test_both_have_the_same_headings_on_the_same_levels() -> None:
    assert re.findall(r"^(#+) ", KOREAN, re.M) == re.findall(r"^(#+) ", ENGLISH, re.M)


def test_both_have_the_same_commands() -> None:
    assert len(commands(ENGLISH)) > 30
    assert commands(KOREAN) == commands(ENGLISH)


def test_both_have_the_same_tables() -> None:
    assert rows(KOREAN) == rows(ENGLISH)


def test_both_lead_to_the_same_pages() -> None:
    """Each has its own pictures, in its language."""
    pages = re.findall(r"\]\((?:docs/)?([^):]+\.md)\)", ENGLISH)
    translated = [re.sub(r"^(\.\./)+", "", link) for link in re.findall(r"\]\(([^):]+\.md)\)", KOREAN)]
    assert [link for link in translated if link != "README.md"] == [
        link for link in pages if link != "docs/ko/README.md" and link != "ko/README.md"
    ]


def test_every_paragraph_and_heading_is_translated() -> None:
    text = re.sub(r"^```.*?^```", "", KOREAN, flags=re.M | re.S)
    prose = [part for part in text.split("\n\n") if part.strip() and not part.startswith(("    ", "|"))]
    untranslated = [part for part in prose if not HANGUL.search(part)]
    assert untranslated == ["# GPU SSH Gateway", "[English](../../README.md)"]
