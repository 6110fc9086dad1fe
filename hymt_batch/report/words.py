"""What statuses, flags, steps and marks mean, in a few words; the README says more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hymt_batch.check.settings import DERIVED_KINDS

STATUSES = {
    "ok": "translated, or copied because there was nothing to translate",
    "copied": "the translation equals the source; it is kept",
    "truncated": "a piece of the row reached its token limit or came back empty; the rest is kept",
    "empty": "the model returned no text",
    "too_long": "the row exceeds a limit",
    "bad_encoding": "the row is not valid in its encoding, or its translation cannot be written in that of the output",
    "bad_row": "the row is not valid in its format, or has no text field",
    "bad_language": "the language that the row names is not supported",
    "generation_error": "decoding failed, or codes of the source were lost",
    "non_finite": "the model returned NaN or infinity",
    "crash_quarantined": "the process died three times while it decoded this row alone",
    "failed_file": "the file is not of its format and has no output",
    "not_selected": "beyond source.limit; it stays as it is",
}

FLAGS = {
    "blank": "nothing to translate; copied",
    "empty": "a piece of the row came back without a text",
    "copied": "the translation of a piece equals its source",
    "truncated": "a piece of the row reached its token limit",
    "line_break": "a line break in the translation became a space",
    "line_breaks": "the translation has more or fewer line breaks than the source",
    "codes_moved": "tags or placeholders of the source were put back into the translation",
    "source_kept": "tags or placeholders could not be put back; the source is kept",
    "control_token": "a control token was removed from the translation",
    "retried": "this is the result of a second try",
    "unencodable": "the translation has a character that is not in the encoding of the output",
    **DERIVED_KINDS,
}

TRIES = {
    "plain_prompt": "with the usual prompt",
    "format_prompt": "with the prompt by which the model's card asks for codes",
    "plain": "with the codes as plain text",
    "retry": "with another seed",
    "without_codes": "without the codes, which are put back",
}

MARKS = {
    "oom_split": "memory ran out, and the batch was halved",
    "bisected": "a row killed its process, and the unit was halved until that row was alone",
    "not_captured": "captured steps could not be used",
}


def language_rate(settings: Mapping[str, Any]) -> str:
    """Return at what rate the language of rows was identified, by the output settings of the job."""
    share = float(settings.get("check.flag.identify_share") or 0)
    if share <= 0:
        return "The language of rows was judged by their script and letters alone (check.flag.identify_share=0)."
    rate = "of each row" if share >= 1 else f"of {100 * share:g} % of the rows"
    return (
        f"Where script and letters leave it open, the language {rate} was identified, from 30 characters on "
        f"(check.flag.identify_share={share:g})."
    )
