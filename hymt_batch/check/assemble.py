"""Make rows out of the translations of their segments: joined texts, statuses and row flags."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from hymt_batch.check import language_id
from hymt_batch.check.checks import FAILURE_STATUSES, derive
from hymt_batch.check.measures import worst
from hymt_batch.check.pair import words_of
from hymt_batch.check.put_back import put_back
from hymt_batch.check.settings import CheckConfig, OnFail
from hymt_batch.codes import SourceCodes
from hymt_batch.records import (
    LINE_BREAKS,
    Document,
    Measures,
    Part,
    Prompt,
    Row,
    Segment,
    Status,
    Translation,
    has_line_break,
)
from hymt_batch.sent_key import sent_key

_ENDING_FLAGS = frozenset({"control_token", "empty", "truncated"})
_LINE_BREAK = re.compile(rf"\r\n|[{LINE_BREAKS}]")  # "\r\n" is one line break


def assemble_rows(
    part: Part,
    translations: Sequence[Translation],
    join: Callable[[Sequence[Segment], Sequence[str], str], str],
) -> list[Row]:
    """Assemble one row for each document of the part, with its text as the model gave it; see `shape_row`.

    Args:
        part: The documents: which of them are copies of others, which are known already, and which were not sent.
        translations: One flagged translation for each prompt of the part.
        join: Joins the texts of one document's segments for a target language.

    Returns:
        Rows in the order of the file.
    """
    by_document: dict[int, list[Translation]] = {}
    for translation in translations:
        by_document.setdefault(translation.prompt.segment.document_index, []).append(translation)
    prompts: dict[int, list[Prompt]] = {}  # as planned; a translation may have another one, of the code ladder
    for prompt in part.prompts:
        prompts.setdefault(prompt.segment.document_index, []).append(prompt)
    rows: list[Row] = []
    for index in part.document_indices:
        document = part.shard.documents[index]
        if (known := part.known.get(index)) is not None:
            rows.append(replace(known, row_index=document.row_index, digest=document.digest))
        elif (rejection := part.rejections.get(index)) is not None:
            rows.append(Row(document.row_index, document.digest, rejection.status, "", message=rejection.message))
        elif document.status is not Status.OK:
            rows.append(Row(document.row_index, document.digest, document.status, "", message=document.message))
        elif (original := part.copies.get(index, index)) in by_document:
            of_row, own_segments = by_document[original], part.copy_segments.get(index)
            is_plain = (
                len(of_row) == 1 and of_row[0].finish_reason == "stop" and not (of_row[0].flags or of_row[0].tries)
            )
            assemble = _assemble_plain_row if is_plain else _assemble_row
            key = sent_key(document, prompts[original], own_segments) if original in prompts else b""
            rows.append(assemble(document, of_row, own_segments, join, key, is_copy=original != index))
        else:
            rows.append(Row(document.row_index, document.digest, Status.OK, "", ("blank",), attempts=0))
    return rows


def _assemble_row(
    document: Document,
    translations: Sequence[Translation],
    segments: Sequence[Segment] | None,
    join: Callable[[Sequence[Segment], Sequence[str], str], str],
    key: bytes,
    *,
    is_copy: bool,
) -> Row:
    first = translations[0]
    flags, attempt = first.flags, first.attempt
    source_tokens, new_tokens = first.prompt.num_source_tokens, first.num_new_tokens
    for translation in translations[1:]:
        if not set(translation.flags) <= set(flags):  # keeps `flags` short, since a row may have many segments
            flags = tuple(dict.fromkeys(flags + translation.flags))
        attempt = max(attempt, translation.attempt)
        source_tokens, new_tokens = (
            source_tokens + translation.prompt.num_source_tokens,
            new_tokens + translation.num_new_tokens,
        )
    if flags:
        flags = tuple(dict.fromkeys(flags))
    text, message, status = "", "", Status.OK
    for translation in translations:
        if translation.finish_reason in FAILURE_STATUSES:
            status, message = FAILURE_STATUSES[translation.finish_reason], translation.message
            break
    else:
        if "empty" in flags and all("empty" in translation.flags for translation in translations):
            status, message = Status.EMPTY, "the model returned no text"
        else:
            # a copy has its own segments, with its own white space
            own_segments = segments or [translation.prompt.segment for translation in translations]
            text = join(own_segments, [translation.text for translation in translations], first.prompt.tgt_lang)
            if "truncated" in flags or "empty" in flags:  # empty here: some, not all, of several segments
                status, message = Status.TRUNCATED, "a segment's translation did not end within its max_new_tokens"
                if "truncated" not in flags:
                    message = "a segment's translation is empty"
            elif "copied" in flags and text == document.text:
                status, message = Status.COPIED, "the translation equals the source"
    return Row(
        document.row_index,
        document.digest,
        status,
        text,
        flags,
        message,
        attempts=1 + attempt,
        num_source_tokens=source_tokens,
        num_new_tokens=0 if is_copy else new_tokens,
        mean_logprob=min(
            (value for t in translations if (value := _if_finite(t.mean_logprob)) is not None), default=None
        ),
        tries=() if is_copy else _count_tries(translations),
        measures=worst([translation.measures for translation in translations]),
        key=key,
    )


def _assemble_plain_row(
    document: Document,
    translations: Sequence[Translation],
    segments: Sequence[Segment] | None,
    join: Callable[[Sequence[Segment], Sequence[str], str], str],
    key: bytes,
    *,
    is_copy: bool,
) -> Row:
    """Do what `_assemble_row` does, in less time, for the only translation of a row, which ended and has no flag."""
    (translation,) = translations
    prompt = translation.prompt
    return Row(
        document.row_index,
        document.digest,
        Status.OK,
        join(segments or (prompt.segment,), (translation.text,), prompt.tgt_lang),
        attempts=1 + translation.attempt,
        num_source_tokens=prompt.num_source_tokens,
        num_new_tokens=0 if is_copy else translation.num_new_tokens,
        mean_logprob=_if_finite(translation.mean_logprob),
        measures=translation.measures,
        key=key,
    )


def _count_tries(translations: Sequence[Translation]) -> tuple[tuple[str, int], ...]:
    """Return how often each step of the code ladder was decoded for the segments of a row."""
    return tuple(Counter(step for translation in translations for step in translation.tries).items())


def _if_finite(logprob: float | None) -> float | None:
    return logprob if logprob is not None and math.isfinite(logprob) else None


def shape_row(document: Document, row: Row, one_line: bool, config: CheckConfig, tgt_lang: str | None = None) -> Row:
    """Return a row as it is written: with the flags that its measurements and the output format give it.

    Args:
        document: The row's source.
        row: The row as it was committed. Versions before 0.2 committed rows that were shaped already; these stay equal.
        one_line: True if the output holds each row on one line: a line break in a translation becomes one space.
        config: The thresholds of the flags.
        tgt_lang: Target language of the job; None to identify no language. What was identified when the row was
            decoded is used in any case.
    """
    measures = _with_language(document, row, config, tgt_lang)
    if row.text and (document.keeps_codes or config.codes_in_rows):
        row = _with_codes(document, row)
    if row.text and (derived := derive(measures, row.mean_logprob, config.flag, config.flag.flags)):
        row = _with_derived(row, derived)
    if config.on_fail is not OnFail.keep and row.text:
        row = _if_failed(document, row, config)
    text, flags = row.text, row.flags
    if one_line and has_line_break(text):
        text = join_lines(text)
        flags = (*flags, "line_break")
    elif text and not one_line and _count_line_breaks(text) != _count_line_breaks(document.text or ""):
        flags = flags if "line_breaks" in flags else (*flags, "line_breaks")
    return row if flags is row.flags else replace(row, text=text, flags=flags)


def _with_language(document: Document, row: Row, config: CheckConfig, tgt_lang: str | None) -> Measures:
    """Return the measurements of a committed row, with that of its language if the row is in the sample of check.flag.

    The language is identified here only if it was not when the row was decoded, such as in a job of an earlier version.
    """
    flag, code = config.flag, document.tgt_lang or tgt_lang
    if not (flag.identifies and row.text and row.num_source_tokens and (code or row.language)):
        return row.measures
    own = tuple(pair for pair in row.measures if pair[0] != "language")  # that of segments is for second tries
    if not language_id.is_sampled(document.id, flag.identify_share):
        return own
    language = row.language or (language_id.identify(words_of(row.text), code) if code else None)
    return (*own, ("language", language[1])) if language and language[1] else own


def _with_derived(row: Row, derived: list[str]) -> Row:
    """Return a row with the flags that its measurements give it."""
    if "codes_moved" in row.flags:
        derived = [flag for flag in derived if flag != "urls"]  # what was lost is back
    added = [flag for flag in derived if flag not in row.flags and flag != "low_logprob"]
    flags = (*row.flags, *added)
    if "low_logprob" in derived and "low_logprob" not in flags:
        flags = _with_low_logprob(flags)
    return row if flags == row.flags else replace(row, flags=flags)


def _if_failed(document: Document, row: Row, config: CheckConfig) -> Row:
    """Return what check.on_fail writes for a row, if it has one of the flags of check.fail_kinds."""
    failed = next((flag for flag in row.flags if flag in config.fail_kinds), None)
    if failed is None:
        return row
    message = f"the translation has the flag {failed}; check.on_fail={config.on_fail.value}"
    if config.on_fail is OnFail.source:
        flags = (*row.flags, *(() if "source_kept" in row.flags else ("source_kept",)))
        return replace(row, status=Status.COPIED, text=document.text or "", flags=flags, message=message)
    if config.on_fail is OnFail.empty:
        return replace(row, text="")
    return replace(row, status=Status.GENERATION_ERROR, text="", message=message)


def _with_codes(document: Document, row: Row) -> Row:
    """Return a row that has the codes of its source: put back if some were lost; an error row where they cannot be."""
    codes = SourceCodes(document.text or "", document.codes)
    if codes.are_kept_in(row.text):
        return row
    text = put_back(codes, row.text)
    flags = [flag for flag in row.flags if flag != "codes_moved"]  # of one of several segments, by the code ladder
    if codes.are_kept_in(text):
        return replace(row, text=text, flags=(*flags, "codes_moved"))
    message = "the translation lost tags or placeholders of its source, and they cannot be put back"
    return replace(row, status=Status.GENERATION_ERROR, text="", flags=(*flags, "source_kept"), message=message)


def _with_low_logprob(flags: tuple[str, ...]) -> tuple[str, ...]:
    """Add the flag where it always stood: after those that describe how the text ended."""
    position = sum(flag in _ENDING_FLAGS or (flag == "loop" and "truncated" in flags) for flag in flags)
    return (*flags[:position], "low_logprob", *flags[position:])


def _count_line_breaks(text: str) -> int:
    r"""Count the line breaks of a text, of any kind; "\r\n" counts as one."""
    return len(_LINE_BREAK.findall(text)) if has_line_break(text) else 0


def join_lines(text: str) -> str:
    """Replace each line break and the white space around it by one space, in linear time."""
    lines = text.splitlines()
    if text and has_line_break(text[-1]):
        lines.append("")
    if len(lines) < 2:
        return text
    inner = [line for line in map(str.strip, lines[1:-1]) if line]
    return " ".join([lines[0].rstrip(), *inner, lines[-1].lstrip()])
