"""The record of the format json."""

from __future__ import annotations

import re
from functools import partial

from hymt_batch.formats.format import Addressing, Format, Kind
from hymt_batch.formats.json_tree.places import JsonTreeFile
from hymt_batch.formats.spliced import SplicedInput, SplicedWriter, count_places

FORMAT = Format(
    name="json",
    kind=Kind.SPLICED,
    addressing=Addressing.START,
    extension=".json",
    input_extensions=(".json",),
    head_extensions={".arb": re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")},
    has_fields=False,
    source_settings=("encoding",),
    escapes_characters=True,
    open_input=partial(SplicedInput, parse=JsonTreeFile),
    open_writer=partial(SplicedWriter, parse=JsonTreeFile),
    count_rows=partial(count_places, parse=JsonTreeFile),
)
