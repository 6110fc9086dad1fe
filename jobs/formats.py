"""List the formats of files with their settings, and what is translated of each. Reads nothing."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from hymt_batch import streams
from hymt_batch.errors import ExitCode
from hymt_batch.formats import registry
from hymt_batch.formats.format import Format, Kind
from hymt_batch.records import COMPRESSIONS

if TYPE_CHECKING:
    from hymt_batch.schema import FormatsJob

FIELD_SETTINGS = ("text_field", "src_lang_field", "tgt_lang_field")
"""Settings of the formats whose rows have named fields."""

FOOTER = f"""\
source.format=NAME reads files as a format, whatever their names are. Files of all formats but parquet and saved
datasets may be compressed ({" ".join(COMPRESSIONS)}). Without write=NAME, each output has the format of its input, and
in documents only the texts change: docs/formats.md says what is kept. write=NAME makes rows of any of them, with the
texts and the translations: {", ".join(registry.WRITE_NAMES)}."""


def settings_of(format: Format) -> list[str]:
    """Return the settings of the source stage that only some formats have, among them this one."""
    fields = FIELD_SETTINGS if format.has_fields else ()
    return [f"source.{key}" for key in (*fields, *format.source_settings)]


def to_json(format: Format) -> dict[str, Any]:
    """Return one format as `format=json` prints it."""
    return {
        "name": format.name,
        "about": format.about,
        "kind": "document" if format.kind is Kind.SPLICED else "rows",
        "extensions": list(format.input_extensions),
        "compressible": format.compressible,
        "settings": settings_of(format),
        "written": format.name in registry.WRITE_NAMES,
    }


def render() -> str:
    """Format the list as text."""
    lines = []
    for heading, kind in (("Rows", Kind.ROWS), ("Documents", Kind.SPLICED)):
        lines.append(heading)
        for format in (format for format in registry.FORMATS if format.kind is kind):
            files = " ".join(format.input_extensions) or ("a folder" if format.is_folder else "by a setting")
            lines.append(f"  {format.name:<11}{files:<17}{format.about}")
            if settings := settings_of(format):
                lines += textwrap.wrap(" ".join(settings), 110, initial_indent=" " * 30, subsequent_indent=" " * 30)
        lines.append("")
    return "\n".join([*lines, FOOTER])


def run(job: FormatsJob) -> ExitCode:
    """Print the list."""
    as_json = job.format.value == "json"
    streams.print_result(json.dumps([to_json(format) for format in registry.FORMATS]) if as_json else render())
    return ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("formats")
