"""List the languages that the models translate, and the codes and names by which you may write them. Reads nothing."""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

from hymt_batch import streams
from hymt_batch.errors import ExitCode
from hymt_batch.languages import LANGUAGES, Language

if TYPE_CHECKING:
    from hymt_batch.schema import LanguagesJob

COLUMNS = ("code", "English", "Chinese", "native", "other codes")

FOOTER = """\
The code in the first column is what a job records. The other codes, the names in all three columns, and these with a
region (fr-CA, pt_BR) mean the same: for src_lang, tgt_lang, and the fields of source.src_lang_field and
source.tgt_lang_field. A region changes nothing, except that zh-TW, zh-HK and zh-MO are zh-Hant. Another script, such as
hin_Latn or kk-CN, is refused, and so are dialects with a code of their own, such as arz."""


def to_json(language: Language) -> dict[str, Any]:
    """Return one language as `format=json` prints it."""
    return {
        "code": language.code,
        "english": language.english,
        "chinese": language.chinese,
        "native": language.native,
        "script": language.script,
        "codes": list(language.accepted),
        "names": list(language.names),
    }


def render() -> str:
    """Format the table as text."""
    rows = [COLUMNS]
    for language in LANGUAGES.values():
        codes = " ".join(language.accepted)
        rows.append((language.code, language.english, language.chinese, language.native, codes))
    widths = [max(_display_width(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell + " " * (width - _display_width(cell)) for cell, width in zip(row, widths, strict=True))
             for row in rows]  # fmt: skip
    return "\n".join([*(line.rstrip() for line in lines), "", FOOTER])


def _display_width(text: str) -> int:
    """Return the columns of a terminal that a text takes: two for a wide character, none for a combining mark."""
    marks = {"Mn", "Me", "Cf"}
    return sum(
        0 if unicodedata.category(letter) in marks else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def run(job: LanguagesJob) -> ExitCode:
    """Print the table."""
    as_json = job.format.value == "json"
    streams.print_result(json.dumps([to_json(language) for language in LANGUAGES.values()]) if as_json else render())
    return ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("languages")
