"""The rows of a finished job beside their references, and which of them are scored.

Scored is every row that has a text and a reference. A row without a translation counts as an empty one, whatever the
output holds in its place, so failing never pays. Not scored, but counted: rows with nothing visible, rows without a
reference, places beyond source.limit, and files that are not of their format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hymt_batch.errors import ConfigError
from hymt_batch.evaluate.references import Reference, ReferenceFile, field_text, have_same_names, name_in
from hymt_batch.formats.row_values import BLANK_FLAG
from hymt_batch.records import ERROR_STATUSES, Document, Input, Row, Status, plural
from hymt_batch.run.finished_rows import FinishedJob

NO_REFERENCE = "no_reference"


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A row that is scored."""

    id: str
    digest: bytes  # of the source
    source: str
    translation: str  # "" for a row without one
    reference: str
    tgt_lang: str
    status: Status
    flags: tuple[str, ...]


@dataclass(slots=True)
class Rows:
    """The rows of a job."""

    scored: list[ScoredRow] = field(default_factory=list)
    num_rows: int = 0  # texts, of which a row may have several
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> rows that are not scored
    statuses: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        """Rows without a translation among those that are scored."""
        return sum(row.status in ERROR_STATUSES for row in self.scored)

    def by_language(self) -> dict[str, list[ScoredRow]]:
        """Return the scored rows of each target language."""
        rows: dict[str, list[ScoredRow]] = {}
        for row in self.scored:
            rows.setdefault(row.tgt_lang, []).append(row)
        return dict(sorted(rows.items()))


def collect(job: FinishedJob, references: Sequence[ReferenceFile], id_field: str | None = None) -> Rows:
    """Read all rows of a job beside their references.

    Args:
        job: The job.
        references: Those of each input of the job, in order.
        id_field: The field of the references that names their row; None to align by order.

    Raises:
        ConfigError: The references do not belong to the rows.
        HymtError: The rows cannot be read; see `FinishedJob.read`.
    """
    rows = Rows()
    for input, file in zip(job.inputs, references, strict=True):
        is_last = input is job.inputs[-1]
        for document, row, reference in _aligned(job, input, file, rows, id_field, may_be_longer=is_last):
            _add(rows, document, row, reference.text, document.tgt_lang or job.tgt_lang)
    if not rows.scored:
        raise ConfigError(
            f"no row of {job.folder} has both a text and a reference",
            why=f"Left out: {dict(rows.left_out)}.",
            fix="Set references= to the translations of its inputs.",
        )
    return rows


def _add(rows: Rows, document: Document, row: Row, reference: str, tgt_lang: str) -> None:
    rows.num_rows += 1
    rows.statuses[row.status.value] += 1
    rows.flags.update(row.flags)
    reason = ""
    if row.status in (Status.NOT_SELECTED, Status.FAILED_FILE):
        reason = row.status.value
    elif BLANK_FLAG in row.flags:
        reason = BLANK_FLAG
    elif not reference.strip():
        reason = NO_REFERENCE
    if reason:
        rows.left_out[reason] += 1
        if reason == BLANK_FLAG and reference.strip():
            rows.left_out["blank_with_reference"] += 1
        return
    translation = "" if row.status in ERROR_STATUSES else row.text
    source = document.text or ""
    rows.scored.append(
        ScoredRow(document.id, document.digest, source, translation, reference, tgt_lang, row.status, row.flags)
    )


def _aligned(
    job: FinishedJob, input: Input, file: ReferenceFile, rows: Rows, id_field: str | None, *, may_be_longer: bool
) -> Iterator[tuple[Document, Row, Reference]]:
    """Yield the rows of an input with their references; see `collect`."""
    if id_field is not None or have_same_names(file.format, input):
        yield from _aligned_by_key(job, input, file, id_field)
        return
    references, num_rows = file.read(), 0
    for document, row in job.read(input):
        num_rows += 1
        reference = next(references, None)
        if reference is None:
            num_rows += sum(1 for _ in job.read(input)) - num_rows
            raise _count_error(input, file, num_rows, sum(1 for _ in file.read()))
        yield document, row, reference
    if (num_more := sum(1 for _ in references)) > 0:
        if not (may_be_longer and job.limit is not None):
            raise _count_error(input, file, num_rows, num_rows + num_more)
        used = plural(num_rows, "reference")
        rows.notes.append(f"the job has source.limit={job.limit}: the first {used} of {file.path} are used")


def _count_error(input: Input, file: ReferenceFile, num_rows: int, num_references: int) -> ConfigError:
    return ConfigError(
        f"{input.rel} has {plural(num_rows, 'row')}, and {file.path} has {plural(num_references, 'reference')}",
        why="Rows and references are aligned by their order, so both must have as many.",
        fix="Set references= to the translations of exactly these rows; references_id=FIELD aligns them by an id.",
    )


def _aligned_by_key(
    job: FinishedJob, input: Input, file: ReferenceFile, id_field: str | None
) -> Iterator[tuple[Document, Row, Reference]]:
    """Yield the rows of an input with the references that name them."""
    references: dict[str, Reference] = {}
    for reference in file.read():
        key = reference.name if reference.key is None else reference.key
        if key in references:
            raise ConfigError(f"{file.path} has two references for {key!r}", fix="Remove one of them.")
        references[key] = reference
    read_fields, used = job.fields_of(input), set[str]()
    for document, row in job.read(input):
        key = name_in(input, document)
        if id_field is not None:
            own = field_text(read_fields(document), id_field)
            key = document.id if own is None or document.id in references else own
        if (found := references.get(key)) is None:
            raise ConfigError(
                f"{file.path} has no reference for {document.id} ({key!r})",
                why=f"It has {plural(len(references), 'reference')}, such as {next(iter(references), '')!r}.",
                fix="Add it; an empty one leaves the row out.",
            )
        used.add(key)
        yield document, row, found
    if unused := [key for key in references if key not in used]:
        raise ConfigError(
            f"{file.path} has {plural(len(unused), 'reference')} for no row of {input.rel}, such as {unused[0]!r}",
            fix="Set references= to the translations of exactly these rows.",
        )
