"""The pipe file holds what it promises for whatever anybody writes into it, or into a field of a pipe."""

from io import StringIO
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from gateway.domain.pipe import Pipe
from gateway.domain.pipe_file import BEGIN, END, PipeFile
from gateway.errors import PipesUnavailable
from tests.fakes.pipe_parts import key_pair, pipe

thorough = settings(max_examples=200, deadline=None, derandomize=True, database=None)

PRIVATE, PUBLIC = key_pair()
MINE = pipe("mine", "user123")
# What has a meaning in YAML, JSON, in a list of keys or in a known_hosts line, among all else.
SMUGGLED = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=" \t\r\n\x85\u2028\x00-:#,&*!|>%@`'\"{}[]\\~?=<ab01", max_size=40),
    st.sampled_from([PUBLIC, PRIVATE, BEGIN, END, "user123", "s1", "10.0.0.9", "pipes:\n- from: []\n"]),
)
WORDS = st.text(max_size=12)
ENTRIES = st.fixed_dictionaries(
    {
        "from": st.lists(st.fixed_dictionaries({"username": WORDS}), min_size=1, max_size=2),
        "to": st.dictionaries(st.sampled_from(["host", "username", "private_key_data"]), WORDS, max_size=3),
    }
)
DOCUMENTS = st.fixed_dictionaries(
    {"pipes": st.lists(ENTRIES, max_size=3)}, optional={"version": WORDS, "more": st.lists(WORDS, max_size=2)}
)
LINES = (
    "pipes:",
    "- from:",
    "  - username: a",
    "  to: {}",
    "- {}",
    "version: 1",
    BEGIN,
    END,
    "#",
    "...",
    "---",
)


def published(text: str) -> str:
    file = PipeFile.parse(text)
    return "".join(file.parts([file.line(MINE)]))


def loaded(text: str) -> dict[str, Any]:
    """As YAML understands it, by a reader that is not the pipe file's."""
    document = YAML(typ="safe", pure=True).load(text) or {}
    return {**document, "pipes": document.get("pipes") or []}


def written(document: dict[str, Any], style: str) -> str:
    yaml, text = YAML(typ="safe", pure=True), StringIO()
    yaml.default_flow_style, yaml.allow_unicode = style == "flow", True
    if style == "indented":
        yaml.indent(sequence=4, offset=2)
    yaml.dump(document, text)
    return text.getvalue()


@thorough
@given(
    st.sampled_from(["session_id", "username", "host", "private_key", "host_key", "public_keys"]), SMUGGLED
)
def test_no_value_of_a_field_adds_or_changes_a_pipe(field: str, text: str) -> None:
    change: dict[str, Any] = {field: (text,) if field == "public_keys" else text}
    try:
        made = pipe(**change)
    except ValueError:
        return
    file = PipeFile.parse("")
    [entry] = loaded("".join(file.parts([file.line(made)])))["pipes"]
    assert Pipe.of(entry) == made
    assert [source["username"] for source in entry["from"]] == [made.username]


@thorough
@given(DOCUMENTS, st.sampled_from(["block", "indented", "flow"]))
def test_hand_written_content_keeps_its_meaning_and_comes_first(document: dict[str, Any], style: str) -> None:
    text = written(document, style)
    try:
        whole = published(text)
    except PipesUnavailable:
        assert style == "flow", "a list of lines must be understood"
        return
    [*before, ours] = loaded(whole)["pipes"]
    assert Pipe.of(ours) == MINE
    assert {**loaded(whole), "pipes": before} == loaded(text)


@thorough
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(LINES), max_size=8).map("\n".join)))
@example(f"pipes:\n{BEGIN}\n{END}\n{BEGIN}\n")
def test_any_text_is_refused_or_kept(text: str) -> None:
    try:
        whole = published(text)
    except PipesUnavailable:
        return
    pipes = loaded(whole)["pipes"]
    assert [Pipe.of(entry) for entry in pipes if "session_id" in str(entry)] == [MINE]
    assert published(whole) == whole
    if BEGIN not in text:
        assert [entry for entry in pipes if "session_id" not in str(entry)] == loaded(text)["pipes"]
