"""The places of a JSON tree: its strings, but for those that a setting or the kind of the file leaves out.

A string that is a message of ICU with branches has a place for each of its texts. With `source.add_plural_forms`, the
plural categories that the target language needs and the source lacks are inserted, in such messages and as keys of
i18next (`item_one`, `item_other`), made from the text for `other`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from hymt_batch.formats.json_tree import icu
from hymt_batch.formats.json_tree.content import has_words
from hymt_batch.formats.json_tree.escapes import Escapes
from hymt_batch.formats.json_tree.key_patterns import KeyFilter
from hymt_batch.formats.json_tree.plural_categories import categories
from hymt_batch.formats.json_tree.tokenizer import StringValue, bounded_name, find_strings, member_name, unescape
from hymt_batch.formats.language_codes import names_language
from hymt_batch.formats.row_reader import RowError, not_utf8_message
from hymt_batch.formats.spliced import Place, PlaceOptions
from hymt_batch.formats.text_encoding import BOM, SURROGATE
from hymt_batch.records import FormatCodes, Status

_ONE_UNIT = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[\x00-\x7f]|[^\x00-\x7f][\x80-\xbf]*"
)
_PLAIN_ARGUMENT = re.compile(r"\{[^{}\n]{0,200}\}")


@dataclass(frozen=True, slots=True)
class _Frame:
    """How a translation is written, where it is not the whole of a string."""

    branch: icu.Branch | None = None
    before: bytes = b""  # what is inserted with it
    after: bytes = b""


class JsonTreeFile:
    """A file, parsed; see `spliced.ParsedFile`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._strings = find_strings(data, len(BOM) if data.startswith(BOM) else 0)
        self._escapes = Escapes(data)
        self._finds_links = True

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        self._finds_links = options.plan_version > 6  # earlier plans name no codes of Vue I18n
        is_bundle = _is_resource_bundle(self._strings)
        has_messages = is_bundle or icu.COMPLEX_IN_JSON.search(self._data) is not None
        language = options.tgt_lang if options.add_plural_forms else ""
        keys = KeyFilter(options.keys, options.skip_keys)
        for value in self._strings:
            if (is_bundle and _is_metadata(value)) or not (keys.takes_all or keys.takes(value.path)):
                continue
            try:
                text = self._text(value)
            except RowError as error:
                yield Place(value.start, value.end, value.name, None, error)
                continue
            message = icu.parse(text) if has_messages and _MESSAGE.search(text) else None
            if message is not None:
                yield from self._message_places(value, text, message, language)
                continue
            text = text if has_words(text) else ""
            yield Place(value.start, value.end, value.name, text, codes=self._codes_of_libraries(text))
            if language and text:
                yield from self._plural_keys(value, text, language)

    def encode(self, place: Place, text: str) -> bytes:
        frame = place.context
        if text == place.text and place.start < place.end:
            return self._data[place.start : place.end]  # with the user's own escapes
        if frame is None:
            return self._escapes.escape(text)
        written = icu.write(text, frame.branch) if frame.branch else text
        return bytes(frame.before + self._escapes.escape(written) + frame.after)

    def new_locale(self, tgt_lang: str) -> tuple[int, int, bytes] | None:
        """Return start and end of the value of `@@locale`, and the one that names the target language.

        None if the file has none, or names that language already.
        """
        for value in reversed(self._strings):
            if value.key == "@@locale" and value.container is not None and value.container.parent is None:
                old = self._data[value.start : value.end].decode("utf-8", "replace")
                if not tgt_lang or names_language(old, tgt_lang):
                    return None
                return value.start, value.end, tgt_lang.replace("-", "-" if "-" in old else "_").encode()
        return None

    def _text(self, value: StringValue) -> str:
        """Return the text of a string.

        Raises:
            RowError: It is not UTF-8, or has half of a surrogate pair.
        """
        try:
            text = unescape(self._data[value.start : value.end])
        except UnicodeDecodeError as error:
            raise RowError(not_utf8_message(error, "string"), Status.BAD_ENCODING) from None
        if not text.isascii() and SURROGATE.search(text):
            message = "has half of a surrogate pair in \\u escapes, which is no character. Write both halves."
            raise RowError(message, Status.BAD_ENCODING)
        return text

    def _message_places(self, value: StringValue, text: str, message: icu.Message, language: str) -> Iterator[Place]:
        """Yield a place for each text of a message, and for each branch that is inserted."""
        offsets = self._offsets(value, text)
        inserted = self._inserted_branches(value, offsets, message, language) if language else []
        for part in message.texts:
            start, end = offsets[part.start], offsets[part.end]
            while inserted and inserted[0].start <= start:
                yield inserted.pop(0)
            text_of_part = part.text if has_words(part.text) else ""
            name = bounded_name(value.name + part.label)
            yield Place(start, end, name, text_of_part, codes=self._codes(part), context=_Frame(part.branch))
        yield from inserted

    def _inserted_branches(
        self, value: StringValue, offsets: Sequence[int], message: icu.Message, language: str
    ) -> list[Place]:
        """Return a place for each branch that the target language needs; it stands before the branch `other`."""
        places = []
        for forms in message.plurals:
            start, content = offsets[forms.start], offsets[forms.other.start]
            if not has_words(forms.other.text):
                continue
            opening = self._data[start:content].removeprefix(b"other")
            gap = self._data[offsets[forms.gap_start] : start]
            for category in categories(language, is_ordinal=forms.is_ordinal):
                if category in forms.selectors:
                    continue
                frame = _Frame(forms.other.branch, category.encode() + opening, b"}" + gap)
                name = bounded_name(value.name + forms.label(category))
                places.append(
                    Place(start, start, name, forms.other.text, codes=self._codes(forms.other), context=frame)
                )
        return sorted(places, key=lambda place: place.start)

    def _plural_keys(self, value: StringValue, text: str, language: str) -> Iterator[Place]:
        """Yield a place for each key of i18next that the target language needs; it stands after the key of `other`."""
        container = value.container
        if container is None or value.key_start < 0 or not str(value.key).endswith("_other"):
            return
        stem, is_ordinal = str(value.key).removesuffix("_other"), str(value.key).endswith("_ordinal_other")
        present = [name for name in ("zero", "one", "two", "few", "many") if f"{stem}_{name}" in container.keys]
        quote = self._data.find(b'_other"', value.key_start, value.start)
        if not present or quote < 0:
            return
        preceding = self._data[max(0, value.key_start - _MAX_SPACE) : value.key_start]
        begin = value.key_start - len(preceding) + len(preceding.rstrip(b" \t\r\n"))
        start = value.end + 1
        for category in categories(language, is_ordinal=is_ordinal):
            if category != "other" and category not in present:
                before = b"," + self._data[begin:quote] + f'_{category}"'.encode() + self._data[quote + 7 : value.start]
                name = member_name(container, f"{stem}_{category}")
                frame = _Frame(before=before, after=b'"')
                yield Place(start, start, name, text, codes=self._codes_of_libraries(text), context=frame)

    def _codes(self, part: icu.MessageText) -> FormatCodes:
        """Return the codes of a text that are codes only in a message."""
        unusual = [argument for argument in part.branch.arguments if not _PLAIN_ARGUMENT.fullmatch(argument)]
        own = [(code, "") for code in [*unusual, *(["#"] if part.branch.has_number else [])]]
        return (*own, *self._codes_of_libraries(part.text))

    def _codes_of_libraries(self, text: str) -> FormatCodes:
        """Return the codes of a text that only some libraries have: other keys in it, and tags that are numbers.

        Those are `$t(key)` of i18next, `@:key` and `@.lower:key` of Vue I18n, and `<0>` of React.
        """
        if "$t(" not in text and "<" not in text and "@" not in text:
            return ()
        found = (_OF_LIBRARIES if self._finds_links else _I18NEXT).finditer(text)
        return tuple(dict.fromkeys((match[0], f"<{match[2]}>" if match[1] else "") for match in found))

    def _offsets(self, value: StringValue, text: str) -> Sequence[int]:
        """Return the offset in the file of each character of a string, and of its end."""
        raw = self._data[value.start : value.end]
        if b"\\" not in raw and raw.isascii():
            return range(value.start, value.end + 1)
        return list(accumulate(map(len, _ONE_UNIT.findall(raw)), initial=value.start))


_MESSAGE = re.compile("[{}']")
_MAX_SPACE = 1000
"""An inserted key has the white space of the key beside it, of which no more bytes than these are looked at."""

_OF_I18NEXT = r"\$t\([^()\n]{0,200}\)|<(/?)(\d{1,3})/?>"
_I18NEXT = re.compile(_OF_I18NEXT)
_OF_LIBRARIES = re.compile(rf"{_OF_I18NEXT}|@(?:\.\w{{1,30}})?:(?:\([^()\n]{{1,200}}\)|[\w.\-]{{0,200}}\w)")


def _is_resource_bundle(strings: Sequence[StringValue]) -> bool:
    """Return whether a file is an application resource bundle (ARB), of which some keys begin with @."""
    outermost = next((value.container for value in strings), None)
    while outermost is not None and outermost.parent is not None:
        outermost = outermost.parent
    if outermost is None or not outermost.is_object:
        return False
    keys = outermost.keys
    return any(key.startswith("@@") or (key.startswith("@") and key[1:] in keys) for key in keys)


def _is_metadata(value: StringValue) -> bool:
    """Return whether a string of a resource bundle belongs to a key that begins with @."""
    key, container = value.key, value.container
    while container is not None and container.parent is not None:
        key, container = container.key, container.parent
    return isinstance(key, str) and key.startswith("@")
