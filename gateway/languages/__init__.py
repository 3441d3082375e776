"""The translations of what users read, by the standard library's gettext. The code itself has the English.

Each language has a directory with `LC_MESSAGES/gateway.po`, and its compiled form `gateway.mo`, which
`make words` writes.
"""

import functools
import gettext
from pathlib import Path

ENGLISH = "en"
LANGUAGES = {ENGLISH: "English", "ko": "한국어"}

_HERE = Path(__file__).parent


@functools.cache
def translations(language: str) -> gettext.NullTranslations:
    """Return the translations into a language of `LANGUAGES`. What has no translation stays English."""
    return gettext.translation("gateway", _HERE, [language], fallback=True)
