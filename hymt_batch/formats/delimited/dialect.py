"""How csv and tsv differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """The rules of one of the two formats."""

    name: str
    delimiter: str  # where the settings name none
    quoted: bool  # cells may be quoted, and then hold delimiters and line breaks


CSV = Dialect("csv", ",", quoted=True)
TSV = Dialect("tsv", "\t", quoted=False)
