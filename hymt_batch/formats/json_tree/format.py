"""The record of the format json."""

from __future__ import annotations

import re

from hymt_batch.formats.deferred import Deferred
from hymt_batch.formats.spliced import spliced_format

FORMAT = spliced_format(
    Deferred("hymt_batch.formats.json_tree.places", "JsonTreeFile"),
    name="json",
    about="JSON trees of keys (.json, .arb); all strings",
    extension=".json",
    input_extensions=(".json",),
    head_extensions={".arb": re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")},
    source_settings=("encoding", "keys", "skip_keys", "add_plural_forms"),
    escapes_characters=True,
    open_writer=Deferred("hymt_batch.formats.json_tree.writer", "JsonTreeWriter"),
    count_rows=Deferred("hymt_batch.formats.json_tree.count", "count_rows"),
)
