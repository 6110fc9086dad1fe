"""A text beside its translation, as the checks see it. Pure data; decodes nothing."""

from __future__ import annotations

import re
from functools import cached_property

from hymt_batch import languages
from hymt_batch.check import scripts
from hymt_batch.codes import find_ranges

MIN_CHARS = 20
"""Characters of a source from which its translation is measured by length, script and language: fewer say little."""


_MAY_HAVE_CODES = re.compile(r"[<{}&%@\\$]|://|www\.")


def words_of(text: str) -> str:
    """Return a text without its tags, placeholders and addresses."""
    if not _MAY_HAVE_CODES.search(text):
        return text
    pieces, last = [], 0
    for start, end in find_ranges(text, ()):
        pieces.append(text[last:start])
        last = end
    return " ".join([*pieces, text[last:]])


class Pair:
    """A text, its translation and their languages.

    Args:
        source: The text, without surrounding white space.
        translation: Its translation, without surrounding white space.
        src_lang: Code of the source language; None if it is not known.
        tgt_lang: Code of the target language.
    """

    def __init__(self, source: str, translation: str, src_lang: str | None, tgt_lang: str) -> None:
        self.source, self.translation = source, translation
        self.target = languages.get(tgt_lang)
        self._src_lang = src_lang

    @cached_property
    def source_script(self) -> str:
        return languages.get(self._src_lang).script if self._src_lang else scripts.main_script(self.source)

    @property
    def source_code(self) -> str:
        """Code of the source language, or of one with the same script."""
        return languages.get(self._src_lang).code if self._src_lang else scripts.TYPICAL.get(self.source_script, "en")

    @cached_property
    def words(self) -> str:
        """The translation without tags, placeholders and addresses, which are in no language."""
        return words_of(self.translation)

    @cached_property
    def source_words(self) -> str:
        """The source without tags, placeholders and addresses."""
        return words_of(self.source)

    @property
    def is_long(self) -> bool:
        return len(self.source) >= MIN_CHARS and len(self.source_words) >= MIN_CHARS
