"""The records that flow from stage to stage: plain data, standard library only.

Symbols used in every docstring: B rows in a batch, T prompt tokens, N new tokens. Nobody changes a record. Those of
which each row has one are not frozen all the same: a frozen one takes three times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class Status(StrEnum):
    """The outcome of a row. Every input row ends with exactly one status."""

    OK = "ok"
    EMPTY = "empty"  # the model returned nothing
    COPIED = "copied"  # the translation equals its source; kept
    TRUNCATED = "truncated"  # no end token within the row's max_new_tokens; the text is kept
    TOO_LONG = "too_long"  # the row exceeds a limit; not translated
    BAD_ENCODING = "bad_encoding"  # its bytes are not in the encoding of the file; not translated
    BAD_ROW = "bad_row"  # it is not a valid row of its format, has no text field, or cannot take the added fields
    BAD_LANGUAGE = "bad_language"  # its language field is not a language that the model supports; not translated
    GENERATION_ERROR = "generation_error"  # decoding failed for this row
    NON_FINITE = "non_finite"  # the network returned NaN or infinity for this row
    CRASH_QUARANTINED = "crash_quarantined"  # the row killed the process repeatedly
    FAILED_FILE = "failed_file"  # the file cannot be parsed as its format; the status of its only row
    NOT_SELECTED = "not_selected"  # a place of a document beyond source.limit; it keeps its source


ERROR_STATUSES = frozenset(
    {
        Status.EMPTY,
        Status.TOO_LONG,
        Status.BAD_ENCODING,
        Status.BAD_ROW,
        Status.BAD_LANGUAGE,
        Status.GENERATION_ERROR,
        Status.NON_FINITE,
        Status.CRASH_QUARANTINED,
        Status.FAILED_FILE,
    }
)
"""Statuses of rows without a usable translation. All but FAILED_FILE count towards check.max_error_rate."""


def count_error_rows(counts: Mapping[str, int]) -> int:
    """Return the rows that count towards check.max_error_rate, of rows by status."""
    return sum(counts.get(status, 0) for status in ERROR_STATUSES if status is not Status.FAILED_FILE)


HARD_FLAGS = frozenset({"empty", "truncated", "loop"})
"""Flags of translations that are probably unusable; they cause a second try if `check.retry.max_attempts` allows it."""


UNLISTED_STATUSES = frozenset({Status.OK, Status.NOT_SELECTED})
"""Statuses of rows that are not listed in errors/: there is nothing to tell about them."""


PLAN_VERSION = 8
"""Version of the plan: which rows are sent, which are equal, how they are cut, what is decoded together, which rows are
divided, and what the digests cover.

A job keeps the version it was created with, so that its committed parts stay valid. Output folders without
`batch.plan` in their identity use version 1.
"""

MAX_CHUNK_CHARS = 8192
"""Maximum number of characters that one call of a regular expression or of the tokenizer gets, so that it is short."""

COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".xz": "xz", ".bz2": "bz2"}
"""Extension of a compressed file -> name of the compression."""

LINE_BREAKS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
"""Characters that str.splitlines treats as the end of a line, written for use inside [] in a regular expression."""


def line_ending(line: bytes) -> bytes:
    r"""Return the ending of a line: b"\r\n", b"\n", or b"" for a last line without one."""
    if line.endswith(b"\r\n"):
        return b"\r\n"
    return b"\n" if line.endswith(b"\n") else b""


def has_line_break(text: str) -> bool:
    """Return whether a text contains one of LINE_BREAKS anywhere, including at its end."""
    return bool(text) and text.splitlines() != [text]  # several times faster than a regular expression


def plural(count: int, noun: str) -> str:
    """Return a count with its noun for a message: "1 row", "1,200 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Input:
    """One input file of the job, as listed before any of it is read."""

    rel: str  # path relative to the source's root, `/`-separated; row ids begin with it
    out_rel: str  # path of the output below translated/
    path: str  # path of the file itself
    format: str  # name of a format in formats/registry.py; a saved dataset has "parquet": see `dataset`
    compression: str = ""  # "", gz, zst, xz or bz2
    file_id: str = ""  # 16 hex digits of sha256(rel): the name of its state folder
    dataset: str = ""  # "arrow" for a split saved by datasets.save_to_disk; its path is the split's folder
    encoding: str = ""  # encoding of its text, as source.encoding names it; "" for UTF-8 and for tables
    max_window: int = 1 << 31  # zst: largest window in bytes, that is memory, which it may ask for
    tgt_lang: str = ""  # target language of the job; "" where it has none yet, or was not asked for
    size: int | None = None  # bytes on the disk when it was listed; None for a folder, and in a list that was stored


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that was found beside the inputs and is not read."""

    rel: str  # as `Input.rel`
    why: str  # what it is, such as "SubRip subtitles", or "unknown extension"


@dataclass(frozen=True, slots=True)
class Preamble:
    """What precedes the first row of a file, and the properties of the file that are derived from it."""

    bom: bytes = b""  # UTF-8 byte order mark, if the file has one
    header: bytes = b""  # csv/tsv: the header record as found, with its line ending
    fields: tuple[str, ...] = ()  # csv/tsv/parquet: column names; with source.header=false "1", "2", ...
    newline: bytes = b"\n"  # line ending of the first line, used where the output needs one that the input lacks
    delimiter: str = ""  # csv/tsv: character between two fields; "" means the format's default
    escape: str = ""  # csv/tsv: character that makes the next quote, delimiter or line break literal; "" means none
    schema: Any = None  # parquet and saved datasets: the pyarrow schema
    text_fields: tuple[str, ...] = ()  # names and paths of the texts, where a row may have several; () where it has one
    found_fields: tuple[str, ...] = ()  # those of text_fields that are among the columns, or in the first rows
    encoding: str = ""  # encoding of the file, with its byte order; "" for UTF-8 and for tables
    mark: bytes = b""  # byte order mark of UTF-16 or UTF-32, which is not a part of the transcoded bytes

    @property
    def num_bytes(self) -> int:
        """Cursor of the first row."""
        return len(self.bom) + len(self.header)


Measures = tuple[tuple[str, float], ...]
"""What was measured of a translation, by name, where it is not 0; see `check.measures`."""

Language = tuple[str, float]
"""What language a translation was taken for, as a label of py3langid, and by how much it is more probable than the
target language, from 0 to 1; see `check.language_id`."""

FormatCodes = tuple[tuple[str, str], ...]
"""Codes of a text that only its format knows, each with the code that it closes (`**`: itself), or ""."""


@dataclass(slots=True, unsafe_hash=True)
class Document:
    """One text of the source, with a stable id: a row, one of several fields of a row, or a place."""

    id: str  # "<rel>#<line from 1>", "<rel>#<line from 1>[<field>]", or "<rel>#<name of the place>"
    row_index: int  # index within its file, from 0: of the row, unless rows have several text fields
    text: str | None  # None if unreadable; for an error row, set only in the second pass
    digest: bytes  # 8 bytes of blake2b over the raw row (bytes with line ending, or the row's canonical form)
    raw: bytes = b""  # the row in UTF-8 with its line ending; parquet: the text of a rejected row, otherwise b""
    src_lang: str | None = None  # None: the job's language
    tgt_lang: str | None = None
    status: Status = Status.OK  # with any other status the row is not decoded
    message: str = ""  # the reason, for the errors file
    values: Any = None  # the parsed row, kept for the writer of the output
    keeps_codes: bool = False  # its translation must have the codes of its text: so in every spliced format
    codes: FormatCodes = ()  # codes of its text besides those that are codes in every format
    long_row: Any = field(default=None, compare=False)  # formats.long_rows.LongRow of a row over the byte limit
    needs_escape: bool = False  # csv: an escape character that no setting names is the probable cause of the error
    field: Any = None  # formats.field_rows.FieldPlace, where rows have several text fields
    candidates: tuple[str, ...] = ()  # translations of it that a pass refines, all different


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of consecutive documents of one file, of whole rows: the unit of planning and of sorting by length."""

    input: Input
    index: int  # from 0 within the file
    first_row: int
    documents: Sequence[Document]
    start: int  # cursor of the first row: offset in the decompressed UTF-8 bytes, or row number for tables
    end: int  # cursor after the last row
    sha256: str  # hash of the raw bytes [start, end); for tables and spliced formats, of the row digests
    last: bool  # True for the last shard of its file

    @property
    def name(self) -> str:
        return f"{self.input.rel} shard {self.index}"


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A finished shard as its committed parts record it; a resumed run skips the shard if its hash is unchanged."""

    index: int
    first_row: int
    num_rows: int
    start: int
    end: int
    sha256: str
    last: bool


@dataclass(slots=True, unsafe_hash=True)
class Segment:
    """A piece of a document that gets its own prompt. `lead + text + trail` is the piece, character for character."""

    document_index: int  # index into the shard's documents
    index: int  # from 0 within the document
    text: str  # what the model gets: no surrounding white space
    lead: str = ""  # white space before it, kept verbatim
    trail: str = ""  # white space after it, kept verbatim
    codes: FormatCodes | None = None  # those that only its format knows; None: its translation need not keep codes


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reason why a document is not sent to the model."""

    status: Status
    message: str


@dataclass(slots=True, unsafe_hash=True)
class Prompt:
    """A segment inside the prompt template, as token ids."""

    segment: Segment
    row_id: str
    ids: tuple[int, ...]  # T tokens, template included
    num_source_tokens: int  # tokens of the segment's text alone, for limits and throughput
    tgt_lang: str
    src_lang: str | None = None  # None if neither the job nor the row names it
    around: tuple[str, str] = ("", "")  # what the user turn has before the segment's text, and after it


@dataclass(frozen=True, slots=True)
class PreparedShard:
    """A shard whose rows are split and encoded."""

    shard: Shard
    prompts: Sequence[Prompt]  # of the rows to decode, in the order of their documents
    rejections: Mapping[int, Rejection]  # document index -> why the row is not sent to the model


@dataclass(frozen=True, slots=True)
class Part:
    """A slice of a shard's plan: the unit of commit. A kill loses at most the parts that are being decoded."""

    shard: Shard
    index: int  # from 0 within the shard
    num_parts: int  # number of parts in the shard
    document_indices: tuple[int, ...]  # indices into the shard's documents, ascending; every row of the part
    prompts: tuple[Prompt, ...] = ()  # in decoding order; equal rows appear once
    copies: dict[int, int] = field(default_factory=dict)  # document -> the equal document that is decoded instead
    # own segments of copies with other surrounding white space
    copy_segments: dict[int, tuple[Segment, ...]] = field(default_factory=dict)
    rejections: Mapping[int, Rejection] = field(default_factory=dict)  # document -> why it is not sent to the model
    known: Mapping[int, Row] = field(default_factory=dict)  # document -> its row in the earlier version of its file
    run_lengths: tuple[int, ...] = ()  # segments in each run of a divided row; () if the part is decoded as a whole
    run: SegmentRun | None = None  # which segments the part has, if it is one of the runs of a divided row

    @property
    def is_divided(self) -> bool:
        """True if its only row is too long for a part and is decoded in runs of its segments."""
        return bool(self.run_lengths)

    def segment_runs(self) -> list[Part]:
        """Return the runs of the part's row, each as a part of its own that holds no row; [] if it is not divided."""
        runs: list[Part] = []
        start = 0
        for index, length in enumerate(self.run_lengths):
            run = SegmentRun(self, index, start, start + length - 1)
            prompts = self.prompts[start : start + length]
            runs.append(Part(self.shard, self.index, self.num_parts, (), prompts, run=run))
            start += length
        return runs

    @property
    def num_source_tokens(self) -> int:
        """Tokens of the source texts that are decoded; equal rows count once."""
        return sum(prompt.num_source_tokens for prompt in self.prompts)


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """Consecutive segments of a divided row, which are decoded and committed together."""

    of: Part  # the part of the row, which is joined from its runs
    index: int  # from 0 within the row
    first: int  # index of its first segment within the row
    last: int


class Attempt(NamedTuple):
    """Which decoding of a prompt it is, and how its tokens are chosen."""

    number: int = 0  # a number of its own has a seed of its own
    sampling: str = "job"  # "job": as the job does; "card": as the model's card says; "penalty": see decoder.py


FIRST = Attempt()


@dataclass(slots=True, unsafe_hash=True)
class Translation:
    """The model's text for one segment."""

    prompt: Prompt
    text: str
    finish_reason: str  # "stop", "length", "loop", "error", "non_finite" or "crash"
    num_new_tokens: int = 0
    flags: tuple[str, ...] = ()
    message: str = ""
    attempt: int = 0
    mean_logprob: float | None = None  # over the chosen tokens and the end token; None if not recorded
    tries: tuple[str, ...] = ()  # steps of a ladder that were decoded; () for one with the plain prompt alone
    measures: Measures = ()  # of the text beside its source


@dataclass(slots=True, unsafe_hash=True)
class Row:
    """One row of a part: what is written for one document."""

    row_index: int  # index within the file
    digest: bytes  # digest of the document
    status: Status
    text: str  # the translation; "" where there is none
    flags: tuple[str, ...] = ()
    message: str = ""  # the reason, for the errors file
    attempts: int = 1
    num_source_tokens: int = 0
    num_new_tokens: int = 0
    mean_logprob: float | None = None  # of its segment with the lowest mean log-probability; None if not recorded
    tries: tuple[tuple[str, int], ...] = ()  # steps of a ladder -> decodings of its segments; see Translation
    key: bytes = b""  # digest of all that was sent for it; see sent_key.py; b"" if nothing was, or before version 0.2
    origin: str = ""  # start of the sha256 of the identity under which it was decoded, if an earlier version of its
    # file had it already; "" if it was decoded for this one
    measures: Measures = ()  # of each kind the worst of its segments
    language: Language | None = None  # of the whole row; None if it was not identified
