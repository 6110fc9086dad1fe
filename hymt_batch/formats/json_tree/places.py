"""The places of a JSON tree: its strings, but for those that a setting or the kind of the file leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hymt_batch.formats.json_tree.content import has_words
from hymt_batch.formats.json_tree.escapes import Escapes
from hymt_batch.formats.json_tree.tokenizer import StringValue, find_strings, unescape
from hymt_batch.formats.line_input import BOM
from hymt_batch.formats.row_reader import RowError, not_utf8_message
from hymt_batch.formats.spliced import Place, PlaceOptions
from hymt_batch.records import Status

_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonTreeFile:
    """A file, parsed; see `spliced.ParsedFile`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._strings = find_strings(data, len(BOM) if data.startswith(BOM) else 0)
        self._escapes = Escapes(data)

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        is_bundle = _is_resource_bundle(self._strings)
        for value in self._strings:
            if not (is_bundle and _is_metadata(value)):
                yield self._place(value)

    def encode(self, place: Place, text: str) -> bytes:
        if text == place.text:
            return self._data[place.start : place.end]  # with the user's own escapes
        return self._escapes.escape(text)

    def _place(self, value: StringValue) -> Place:
        start, end, name = value.start, value.end, value.name
        try:
            text = unescape(self._data[start:end])
        except UnicodeDecodeError as error:
            return Place(start, end, name, None, RowError(not_utf8_message(error, "string"), Status.BAD_ENCODING))
        if not text.isascii() and _SURROGATE.search(text):
            message = "has half of a surrogate pair in \\u escapes, which is no character. Write both halves."
            return Place(start, end, name, None, RowError(message, Status.BAD_ENCODING))
        return Place(start, end, name, text if has_words(text) else "")


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
