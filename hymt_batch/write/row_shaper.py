"""Make the rows that an output holds of the rows that are committed. Reads and writes no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hymt_batch.formats.format import Format
from hymt_batch.formats.output_stream import unencodable_character
from hymt_batch.records import Document, Row, Status
from hymt_batch.write import pass_rows, place_row


@dataclass(frozen=True, slots=True)
class RowShaper:
    """How the rows of one file are written."""

    shape_row: Callable[[Document, Row, bool], Row]  # see published_file.InputAccess
    one_line: bool  # a row of the output cannot hold a line break
    target: Format  # of the output
    fit_lines: Callable[[str, str], tuple[str, bool]] | None  # see Format.fit_lines; None if lines are not laid out
    encoding: str  # in which the output is written; "" if it can hold every character
    can_escape: bool  # a character that the encoding lacks can be escaped

    def shape(self, document: Document, row: Row) -> Row:
        """Return a committed row as it is written."""
        shaped = self.shape_row(document, row, self.one_line)
        if self.fit_lines is not None and shaped.text:
            shaped = place_row.with_fitting_lines(document, shaped, self.fit_lines)
        if self.target.can_hold is not None and shaped.text and not self.target.can_hold(document, shaped.text):
            shaped = place_row.with_source_kept(shaped)
        return self._encodable(shaped) if self.encoding and shaped.text else shaped

    def _encodable(self, row: Row) -> Row:
        """Return a row as an output can hold it: flagged if its translation has a character that the encoding lacks.

        An output that cannot escape the character holds an error row instead.
        """
        character = unencodable_character(row.text, self.encoding)
        if not character:
            return row
        flags = (*row.flags, "unencodable")
        if self.can_escape:
            return replace(row, flags=flags)
        message = (
            f"its translation has {character!r} (U+{ord(character):04X}), which is not in {self.encoding}. "
            "Set write.encoding=utf-8, or write=jsonl, which can escape it."
        )
        return replace(row, status=Status.BAD_ENCODING, text="", flags=flags, message=message)

    def best(self, document: Document, row: Row, later_rows: Sequence[tuple[int, Row]]) -> tuple[Row, Row, int]:
        """Return the row that is written for a document: that of the job, or one of a pass that is as good.

        Args:
            document: The source.
            row: The row of the job.
            later_rows: Its rows in passes, in order, each with the number of the pass. One that was decoded from
                another source is not used.

        Returns:
            The row as it is written, the same row as it was committed, and the number of its pass, 0 for the job.
        """
        shaped, committed, number = self.shape(document, row), row, 0
        for later_number, later in later_rows:
            if later.digest != row.digest:
                continue
            later = replace(later, row_index=row.row_index)
            shaped_later = self.shape(document, later)
            if pass_rows.is_as_good(shaped_later, shaped):
                shaped, committed, number = shaped_later, later, later_number
        return shaped, committed, number
