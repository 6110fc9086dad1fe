"""How csv and tsv differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """The rules of one of the two formats."""

    name: str
    about: str  # see `Format`
    delimiter: str  # where the settings name none
    quoted: bool  # cells may be quoted, and then hold delimiters and line breaks


CSV = Dialect("csv", "comma-separated values; the column source.text_field", ",", quoted=True)
TSV = Dialect("tsv", "tab-separated values without quotes; the column source.text_field", "\t", quoted=False)
