"""The translations are whole, and what is compiled is what is written."""

import io
import re
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

import gateway
from gateway.languages import ENGLISH, LANGUAGES, translations

ROOM = Path(gateway.__file__).parent
OTHERS = sorted(LANGUAGES.keys() - {ENGLISH})
PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[ds]|{\w*}")


def catalog(language: str) -> Catalog:
    with open(ROOM / f"languages/{language}/LC_MESSAGES/gateway.po", "rb") as file:
        return read_po(file, locale=language)


def forms(text: str | tuple[str, ...] | list[str] | None) -> list[str]:
    return [text] if isinstance(text, str) else list(text or ())


def messages(language: str) -> list[Message]:
    return [message for message in catalog(language) if message.id]


@pytest.mark.parametrize("language", OTHERS)
def test_every_sentence_of_the_code_and_the_templates_is_translated(language: str) -> None:
    with open(ROOM / "languages/babel.cfg") as mapping:
        methods, options = parse_mapping_cfg(mapping)  # type: ignore[no-untyped-call]
    found = extract_from_dir(str(ROOM), methods, options)
    sentences = {forms(text)[0] for _file, _line, text, _comments, _context in found}
    translated = {forms(message.id)[0] for message in messages(language) if all(forms(message.string))}
    assert len(sentences) > 50
    assert translated == sentences


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_has_the_placeholders_of_its_sentence(language: str) -> None:
    for message in messages(language):
        wanted = sorted(PLACEHOLDER.findall(forms(message.id)[-1]))
        for text in forms(message.string):
            assert sorted(PLACEHOLDER.findall(text)) == wanted, message.id


@pytest.mark.parametrize("language", OTHERS)
def test_the_compiled_translations_are_those_that_are_written(language: str) -> None:
    compiled = io.BytesIO()
    write_mo(compiled, catalog(language))
    file = ROOM / f"languages/{language}/LC_MESSAGES/gateway.mo"
    assert file.read_bytes() == compiled.getvalue(), "run `make words`"


def test_a_sentence_without_a_translation_stays_english() -> None:
    assert translations("ko").gettext("Nobody wrote this.") == "Nobody wrote this."
    assert translations("en").gettext("Sign in") == "Sign in"
    assert translations("ko").gettext("Sign in") == "로그인"
