"""The messages of a run: to the console, to a log file, and as a summary at the end; counts the warnings.

Writes to stderr, and the summary to stdout; independent of the stages. Source text is never logged; the sample pairs of
the summary are escaped.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hymt_batch import streams
from hymt_batch.errors import HymtError
from hymt_batch.formats import registry
from hymt_batch.formats.format import Kind
from hymt_batch.records import UNLISTED_STATUSES, Status, plural
from hymt_batch.run import log_file
from hymt_batch.sanitize import escape_line
from hymt_batch.source.path_errors import describe_skipped
from hymt_batch.storage_error import describe_type

if TYPE_CHECKING:
    from hymt_batch.run.run_status import RunStatus
    from hymt_batch.schema import TranslateJob
    from hymt_batch.write.summary import Summary

log = logging.getLogger(__name__)

MAX_EARLY_RECORDS = 1000
"""Messages before the log file is open that are kept for it."""

MAX_FAILED_FILES = 20
"""Files that cannot be read as their format, and that the summary lists."""

MAX_REPEATS = 3
"""With launch.log_detail=summary, this many warnings of one kind are shown; the others are counted."""


class Reporter:
    """Sends the messages of a run to the console and to a log file, and counts the warnings."""

    _process_has_run = False

    def __init__(self, mode: str = "auto", log_detail: str = "parts") -> None:
        """Begin a run.

        Args:
            mode: "auto" (a bar on a terminal, log lines elsewhere), "bar", "log" or "off" (warnings only).
            log_detail: What of the log goes to the console: "parts" (all lines) or "summary" (no line for a single part
                or file, and repeated warnings are counted). The log file has all lines.
        """
        self.mode = ("bar" if sys.stderr.isatty() else "log") if mode == "auto" else mode
        self.num_warnings = 0
        self.first_warning = ""  # its first line
        self.sample_pairs: list[tuple[str, str]] = []
        self.run_status: RunStatus | None = None  # where other programs see how the run is going
        self.began_at = time.monotonic() if Reporter._process_has_run else None  # None: with the process
        Reporter._process_has_run = True
        self.bar: tqdm[Any] | None = None
        is_summary = log_detail == "summary"
        self._console = _ConsoleHandler(self, MAX_REPEATS if is_summary else None)
        shown = logging.INFO if is_summary else logging.DEBUG
        self._console.setLevel(shown if self.mode == "log" else logging.WARNING)
        # on a terminal the user sees when a line appears; elsewhere the lines of many nights follow each other
        time_prefix = "" if sys.stderr.isatty() else "%(asctime)s "
        self._console.setFormatter(log_file.utc_formatter(f"{time_prefix}hymt-batch: %(message)s"))
        self._file: logging.Handler | None = None
        self._early: _EarlyRecords | None = _EarlyRecords()
        self._root = logging.getLogger("hymt_batch")
        self._previous_level = self._root.level

    def __enter__(self) -> Reporter:
        logging.captureWarnings(True)
        self._root.setLevel(logging.DEBUG)
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.addHandler(self._console)
            if self._early is not None:
                logger.addHandler(self._early)
            logger.propagate = False
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:  # no row was decoded
            self.bar.leave = False
            self.close_bar()
        self._console.report_repeats()
        if error is not None and self._file is not None:
            # only to the file: the entry point prints the error
            message = f"ended: {type(error).__name__}: {error}"
            self._file.handle(self._root.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None))
        logging.captureWarnings(False)
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.removeHandler(self._console)
            if self._file is not None:
                logger.removeHandler(self._file)
            logger.propagate = True
        self._drop_early()
        self._root.setLevel(self._previous_level)
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk must not change the result of the job
                self._file.close()

    def show_stage(self, text: str) -> None:
        """Show on a terminal what a run does while no row is decoded yet; opens the bar."""
        if self.mode != "bar":
            return
        if self.bar is None:
            # tqdm would show nothing on a terminal that reports no size (0 columns)
            size = shutil.get_terminal_size((100, 24))
            self.bar = tqdm(desc=text, bar_format="{desc}", ncols=size.columns - 1, nrows=size.lines, file=sys.stderr)
        self.bar.set_description_str(text)

    def close_bar(self) -> None:
        """Close the bar, if there is one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def log_to(self, folder: Path, keep: int | None = None) -> None:
        """Also write all messages to `folder/<utc>-<pid>.log`, with those since the beginning of the run.

        Of the files of earlier runs, the newest `keep` stay.

        Raises:
            PreflightError: The folder is a symbolic link; logs are never written outside the job's folder.
        """
        try:
            self._file = log_file.open_log(folder, keep)
        except OSError as error:
            file_type = describe_type(folder)
            reason = f"it is {file_type}; move it elsewhere" if file_type not in ("", "a folder") else error.strerror
            log.warning("cannot write a log file in %s: %s", folder, reason)
            return
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.addHandler(self._file)
        for record in self._drop_early():
            self._file.handle(record)

    def _drop_early(self) -> list[logging.LogRecord]:
        """Stop keeping messages for the log file, and return those that were kept."""
        if self._early is None:
            return []
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.removeHandler(self._early)
        records, self._early = self._early.records, None
        return records

    def log_strict(self) -> None:
        """Log why a complete job ends with exit code 1."""
        warnings = plural(self.num_warnings, "warning")
        log.error("exit code 1, because strict=true: %s, the first: %s", warnings, self.first_warning)

    def print_result(self, text: str, *, to_stderr: bool = False) -> None:
        """Print the result of a job that writes files; if it cannot be printed, that is a warning, not an error."""
        if to_stderr:
            print(text, file=sys.stderr, flush=True)
            return
        try:
            streams.print_result(text)
        except HymtError as error:
            log.warning("the result is not shown: %s", error)


class _EarlyRecords(logging.Handler):
    """Keeps the first messages of a run, which has no log file before the folder is known to be its own."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.records) < MAX_EARLY_RECORDS:
            self.records.append(record)


class _ConsoleHandler(logging.Handler):
    """Writes lines to stderr without damaging the progress bar, and counts warnings."""

    def __init__(self, reporter: Reporter, max_repeats: int | None) -> None:
        super().__init__()
        self.reporter, self._max_repeats = reporter, max_repeats
        self._repeats: dict[tuple[str, str], tuple[int, str]] = {}  # kind of warning -> how many, and the first

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self.reporter.num_warnings += 1
            self.reporter.first_warning = self.reporter.first_warning or " ".join(record.getMessage().split())
            if self._max_repeats is not None and self._is_repeated(record, self._max_repeats):
                return
        self._write(self.format(record))

    def _is_repeated(self, record: logging.LogRecord, max_repeats: int) -> bool:
        """Count a warning; return whether enough of its kind were shown. A kind is the text before values go in."""
        text = record.getMessage()
        kind = (record.name, text if record.msg == "%s" else str(record.msg))
        count, first = self._repeats.get(kind, (0, text))
        self._repeats[kind] = (count + 1, first)
        return count >= max_repeats

    def report_repeats(self) -> None:
        """Write how many warnings of each kind were not shown."""
        for (name, _), (count, first) in self._repeats.items():
            if self._max_repeats is not None and count > self._max_repeats:
                hidden = plural(count - self._max_repeats, "more warning")
                message = f"{hidden} of this kind, listed in the log: {first}"
                self._write(self.format(log.makeRecord(name, logging.WARNING, __file__, 0, message, (), None)))
        self._repeats.clear()

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # stderr cannot be written
            tqdm.write(line, file=sys.stderr)


def render_summary(summary: Summary, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the summary of a finished job: what was written, where, how fast; and the (source, translation) pairs."""
    folder, seconds = summary.folder, summary.seconds
    texts = f" with {plural(summary.texts, 'text')}" if summary.texts != summary.rows else ""
    rows = f"{plural(summary.rows, 'row')}{texts}"
    lines = [f"{rows} in {describe_files(summary.files, summary.formats)} → {folder / 'translated'}"]
    for status, count in sorted(summary.counts.items()):
        if status != Status.OK:
            lines.append(f"  {count:,} {status}")
    if any(status not in UNLISTED_STATUSES for status in summary.counts):
        lines.append(f"  listed in {folder / 'errors'}")
    if summary.failed:
        lines.append(f"  failed files: {len(summary.failed):,}, which are not valid in their format and have no output")
        lines += [f"    {escape_line(file.why)}" for file in summary.failed[:MAX_FAILED_FILES]]
        if (more := len(summary.failed) - MAX_FAILED_FILES) > 0:
            lines.append(f"    and {more:,} more, listed in {folder / 'manifest.json'}")
    if flags := ", ".join(f"{name} {count:,}" for name, count in sorted(summary.flags.items())):
        lines.append(f"  flags: {flags}" + (f", listed in {folder / 'review'}" if summary.reviews else ""))
    if summary.tries:
        tries = ", ".join(f"{step} {count:,}" for step, count in summary.tries.items())
        lines.append(f"  decoded again, or for the codes of a text, by step: {tries}")
    if summary.skipped:
        many = f"{len(summary.skipped):,} files were", "their formats are"
        files, formats = ("1 file was", "its format is") if len(summary.skipped) == 1 else many
        lines.append(f"  {files} skipped, because {formats} not read: {describe_skipped(summary.skipped)}")
        lines.append(f"  listed in {folder / 'manifest.json'}")
    lines += summary.update_lines
    if summary.num_rows_decoded:
        noun = "text" if texts else "row"
        speed = f"{summary.num_rows_decoded / seconds:,.1f} {noun}s"
        earlier = f", {summary.num_rows_kept:,} from earlier runs" if summary.num_rows_kept else ""
        lines.append(f"  {plural(summary.num_rows_decoded, noun)} in {format_duration(seconds)} ({speed}/s){earlier}")
    else:
        lines.append(_nothing_decoded(summary))
    for source, translation in pairs:
        lines += ["", f"  {escape_line(source)}", f"→ {escape_line(translation)}"]
    return "\n".join(lines)


def describe_files(num_files: int, formats: Mapping[str, int]) -> str:
    """Return a number of files as text, with those of each format if there are several formats, or documents."""
    if not formats or (len(formats) == 1 and registry.get(next(iter(formats))).kind is Kind.ROWS):
        return plural(num_files, "file")
    counted = sorted(formats.items(), key=lambda item: (-item[1], item[0]))
    return f"{plural(num_files, 'file')} ({', '.join(f'{count:,} {name}' for name, count in counted)})"


def next_command(job: TranslateJob, summary: Summary) -> str:
    """Return the command to run after a finished job."""
    name = summary.folder.relative_to(job.output_dir)
    output_option = "" if job.output_dir == "outputs" else f" output_dir={shlex.quote(job.output_dir)}"
    lines = [f"Next: hymt-batch verify name={shlex.quote(str(name))}{output_option}"]
    if job.source.path == "demo:bulletins":
        lines.append(
            "To translate your own file with the real model: hymt-batch translate source.path=FILE tgt_lang=fr"
        )
    return "\n".join(lines)


def format_duration(seconds: float) -> str:
    """Format a duration for display: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _nothing_decoded(summary: Summary) -> str:
    """Return the line of a summary that says why a run decoded nothing."""
    if count := summary.num_shards_merged:
        return f"  merged from {plural(count, 'shard')}"
    if count := summary.num_files_assembled_again:
        files = "1 file was" if count == 1 else f"{count:,} files were"
        return f"  {files} written again from the rows that are kept; nothing was decoded"
    return "  nothing was left to do" if summary.rows else "  the input has no rows"
