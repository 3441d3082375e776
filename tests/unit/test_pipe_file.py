"""The pipe file's format: what is spliced in, what is kept, what is refused."""

import json
from base64 import b64decode

import pytest
from ruamel.yaml import YAML

from gateway.domain.pipe import Pipe
from gateway.domain.pipe_file import BEGIN, END, PipeFile
from gateway.errors import PipesUnavailable
from tests.fakes.pipe_parts import key_pair, pipe

HANDWRITTEN = '- from:\n  - username: "admin"\n  to:\n    host: 192.0.2.1'


def published(text: str, *pipes: Pipe) -> str:
    file = PipeFile.parse(text)
    return "".join(file.parts(file.line(pipe) for pipe in pipes))


def usernames(text: str) -> list[str]:
    PipeFile.parse(text)
    return [source["username"] for entry in YAML(typ="safe").load(text)["pipes"] for source in entry["from"]]


def without_ours(text: str) -> str:
    """The file less the marks and what is between them."""
    lines = text.splitlines(keepends=True)
    begin, end = (next(i for i, line in enumerate(lines) if mark in line) for mark in (BEGIN, END))
    return "".join(lines[:begin] + lines[end + 1 :])


# A pipe.


def test_a_pipe_is_read_back_as_it_was_written() -> None:
    file = PipeFile.parse("")
    assert Pipe.of(file.entry(file.line(pipe()))) == pipe()


def test_a_pipe_has_the_fields_that_sshpiper_reads() -> None:
    made = pipe(username="user123", host="10.0.0.9", port=2222)
    [entry] = YAML(typ="safe").load(published("", made))["pipes"]
    [source], target = entry["from"], entry["to"]
    assert source["username"] == target["username"] == "user123"
    assert target["host"] == "10.0.0.9:2222"
    assert b64decode(source["authorized_keys_data"]).decode().split("\n") == [*made.public_keys, ""]
    assert b64decode(target["private_key_data"]).decode() == made.private_key
    assert b64decode(target["known_hosts_data"]).decode() == f"[10.0.0.9]:2222 {made.host_key}\n"


def test_port_22_has_no_brackets_in_known_hosts() -> None:
    target = pipe(host="10.0.0.9", port=22).entry()["to"]
    assert b64decode(target["known_hosts_data"]).decode().startswith("10.0.0.9 ssh-ed25519 ")


def test_an_ipv6_address_is_read_back() -> None:
    file = PipeFile.parse("")
    made = pipe(host="fd00::5")
    assert made.entry()["to"]["host"] == "[fd00::5]:2222"
    assert Pipe.of(file.entry(file.line(made))) == made


def test_a_pipe_does_not_show_its_private_key() -> None:
    assert "PRIVATE" not in repr(pipe())


PRIVATE, PUBLIC = key_pair()


@pytest.mark.parametrize(
    "changes",
    [
        {"public_keys": ()},
        {"public_keys": ("",)},
        {"public_keys": (PUBLIC, "ssh-ed25519 AAAA")},
        {"public_keys": (f"{PUBLIC} me\nssh-ed25519 {PUBLIC}",)},
        {"public_keys": (f'command="true" {PUBLIC}',)},
        {"public_keys": (f"# {PUBLIC}",)},
        {"public_keys": (f"{PUBLIC} \x85{PUBLIC}",)},
        {"public_keys": (PRIVATE,)},
        {"private_key": ""},
        {"private_key": PUBLIC},
        {"private_key": PRIVATE + "more"},
        {"host_key": ""},
        {"host_key": f"{PUBLIC}\n[*]:2222 {PUBLIC}"},
        {"host_key": f"@cert-authority * {PUBLIC}"},
        {"username": ""},
        {"username": "two\nlines"},
        {"username": "a user"},
        {"username": None},
        {"session_id": "a b"},
        {"session_id": ""},
        {"host": ""},
        {"host": "a\nb"},
        {"host": "*"},
        {"host": None},
        {"port": 0},
        {"port": 65536},
        {"port": True},
        {"port": "22"},
    ],
)
def test_an_incomplete_pipe_cannot_be_constructed(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="of the pipe is invalid"):
        pipe(**changes)  # type: ignore[arg-type]


# Where the gateway's pipes go.


def test_an_empty_file_becomes_a_complete_one() -> None:
    text = published("", pipe())
    assert YAML(typ="safe").load(text)["version"] == "1.0"
    assert usernames(text) == ["user123"]


@pytest.mark.parametrize(
    "text",
    [
        f"version: '1.0'\npipes:\n{HANDWRITTEN}\n",
        f"# mine\npipes:   # all of them\n{HANDWRITTEN}\n# below\nversion: '1.0'\n",
        "pipes:\n" + "".join(f"    {line}\n" for line in HANDWRITTEN.splitlines()) + "version: 1\n",
        f"pipes:\n{HANDWRITTEN}\n\n\n# the end\n",
        f"---\npipes:\n{HANDWRITTEN}\n...\n",
        f"pipes:\r\n{HANDWRITTEN}\r\n".replace("\n", "\r\n").replace("\r\r", "\r"),
        f"\ufeffpipes:\n{HANDWRITTEN}\n",
        f"# Grüße, 你好 🙂\npipes:\n{HANDWRITTEN}  # 🙂\nother: 'ü'\n",
        f"pipes:\n{HANDWRITTEN}\n    private_key_data: |\n      line\n      # not a comment\nversion: 1\n",
        f"base: &base {{a: 1}}\npipes:\n{HANDWRITTEN}\n    <<: *base\n",
    ],
    ids=["plain", "comments", "indented", "blank", "document", "crlf", "bom", "unicode", "block", "anchors"],
)
def test_hand_written_parts_are_kept_byte_for_byte_and_come_first(text: str) -> None:
    once = published(text, pipe())
    assert without_ours(once) == text
    assert usernames(once) == ["admin", "user123"]
    assert published(once, pipe("s2", "other"), pipe()) == published(text, pipe("s2", "other"), pipe())


@pytest.mark.parametrize(
    "text", ["pipes:\n", "version: 1\npipes:\nother: 2\n", "pipes:  # none yet\nother: 2\n"]
)
def test_an_empty_list_receives_the_pipes(text: str) -> None:
    once = published(text, pipe())
    assert without_ours(once) == text
    assert usernames(once) == ["user123"]


@pytest.mark.parametrize("none", ["[]", "null", "~", "[\n]"])
def test_a_list_written_as_empty_receives_the_pipes(none: str) -> None:
    once = published(f"version: 1\npipes: {none}\nother: 2\n", pipe())
    assert usernames(once) == ["user123"]
    assert YAML(typ="safe").load(once)["other"] == 2


@pytest.mark.parametrize("text", ["# only words\n", "version: '1.0'", "version: '1.0'\n"])
def test_a_file_without_a_list_gets_one(text: str) -> None:
    once = published(text, pipe())
    assert once.startswith(text)
    assert usernames(once) == ["user123"]


def test_a_last_line_without_a_newline_gets_one() -> None:
    text = f"pipes:\n{HANDWRITTEN}"
    assert usernames(published(text, pipe())) == ["admin", "user123"]


def test_lines_below_the_marks_stay_below() -> None:
    text = published("", pipe()) + "  - from:\n    - username: late\n    to: {}\n"
    assert usernames(text) == ["user123", "late"]
    assert published(text).endswith("username: late\n    to: {}\n")


def test_each_line_has_the_newline_and_indentation_of_the_file() -> None:
    text = f"pipes:\n{HANDWRITTEN}\n".replace("\n", "\r\n  ").rstrip(" ")
    text = published(text, pipe())
    ours = next(line for line in text.splitlines(keepends=True) if "session_id" in line)
    assert ours.startswith("  - {")
    assert ours.endswith("}\r\n")


# What is refused.


@pytest.mark.parametrize(
    "text",
    [
        "pipes: [\n",
        "pipes:\n- a: 1\n b: 2\n",
        "pipes: 7\n",
        "pipes: {a: 1}\n",
        "pipes: [{from: [], to: {}}]\n",
        "pipes:\n- 7\n",
        "pipes:\n- from: me\n  to: {}\n",
        "pipes:\n- from: [me]\n  to: {}\n",
        "pipes:\n- from: []\n  to: there\n",
        "pipes:\npipes:\n",
        "version: 1\nversion: 2\npipes:\n",
        "- from: []\n",
        "words\n",
        "{pipes: null}\n",
        "pipes:\n---\npipes:\n",
        "pipes: &a !!python/object:os.system {}\n",
        "\x00",
    ],
)
def test_a_file_that_could_be_misread_is_refused(text: str) -> None:
    with pytest.raises(PipesUnavailable, match="pipe"):
        PipeFile.parse(text)


GOOD = published("", pipe())


@pytest.mark.parametrize(
    "damaged",
    [
        GOOD.replace(END, ""),
        GOOD.replace(BEGIN, ""),
        GOOD + GOOD,
        GOOD.replace(BEGIN, "# x").replace(END, BEGIN).replace("# x", END),
        GOOD.replace("pipes:", "papers:"),
        GOOD.replace("pipes:", "text: |"),
        GOOD + "  bad\n",
    ],
    ids=["no end", "no begin", "twice", "swapped", "elsewhere", "in a text", "broken below"],
)
def test_missing_or_misplaced_marks_are_refused(damaged: str) -> None:
    with pytest.raises(PipesUnavailable):
        PipeFile.parse(damaged)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace("{", "[", 1),
        lambda line: line.replace('"session_id"', '"from": [], "session_id"'),
        lambda line: line[:-2] + "\n",
        lambda line: " " + line,
        lambda line: "  # a remark\n",
        lambda line: "\n",
        lambda line: line.replace("}}", "}, 7}"),
    ],
)
def test_a_foreign_line_between_the_marks_is_refused(change: object) -> None:
    file = PipeFile.parse(GOOD)
    with pytest.raises(PipesUnavailable):
        file.entry(change(file.lines[0]))  # type: ignore[operator]


def test_only_a_line_that_begins_with_a_mark_is_one_and_counts_once() -> None:
    text = published("", pipe(username="user123"))
    mentioned = f"# see {BEGIN} and {END}\n" + text.replace(BEGIN, f"{BEGIN}, {BEGIN}").replace(
        END, f"{END} {END}"
    )
    assert usernames(mentioned) == ["user123"]
    assert len(PipeFile.parse(mentioned).lines) == 1


def test_an_error_does_not_quote_the_file() -> None:
    with pytest.raises(PipesUnavailable) as error:
        PipeFile.parse("pipes:\n- from: []\n  to: {private_key_data: SECRET\n")
    assert "SECRET" not in str(error.value)
    assert "line" in str(error.value)


@pytest.mark.parametrize("missing", ["session_id", "from", "to"])
def test_a_line_without_a_required_field_is_not_a_pipe(missing: str) -> None:
    entry = {name: value for name, value in pipe().entry().items() if name != missing}
    with pytest.raises(ValueError, match="does not describe a pipe"):
        Pipe.of(entry)


def test_the_lines_are_json() -> None:
    [line] = PipeFile.parse(GOOD).lines
    assert json.loads(line.strip().removeprefix("- ")) == pipe().entry()
