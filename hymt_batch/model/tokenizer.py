"""Text to token ids and back, with the chat format of the checkpoint composed once.

The user turn is encoded by a copy of the tokenizer that has no added tokens, so that no text, whatever it contains,
becomes a control token; the framing ids around it come from the checkpoint's own chat template, rendered once around
a sentinel. Does not know the prompts' wording.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch.errors import PreflightError

_SLICE = 256
_SENTINEL = "hymt sentinel 7f3a"
_PROBE = "Translate the following segment into French, without additional explanation.\n\nIt is 3 o'clock, 你好."


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The tokenizer of a checkpoint, with its chat format."""

    full: Any  # tokenizers.Tokenizer as shipped; decodes
    bare: Any  # the same without added tokens; encodes what users wrote
    prefix: tuple[int, ...]  # ids before the user turn
    suffix: tuple[int, ...]  # ids after it
    control: frozenset[int]  # ids that must never come from a text
    stop: tuple[int, ...]  # ids that end a translation
    pad: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text alone, without framing; never a control id (check `leaks`)."""
        return [
            encoding.ids
            # in slices: an encoding holds offsets and masks too, some fifty times the size of its text
            for start in range(0, len(texts), _SLICE)
            for encoding in self.bare.encode_batch(list(texts[start : start + _SLICE]), add_special_tokens=False)
        ]

    def count(self, text: str) -> int:
        return len(self.bare.encode(text, add_special_tokens=False).ids)

    def leaks(self, body: Sequence[int]) -> bool:
        """Whether a body holds an id that only the framing may hold."""
        return not self.control.isdisjoint(body)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of new tokens; control tokens are left out."""
        plain = [[token for token in row if token not in self.control] for row in rows]
        texts: list[str] = self.full.decode_batch(plain, skip_special_tokens=True)
        return texts


def load(folder: Path, config: dict[str, Any], *, add_generation_prompt: bool) -> Tokenizer:
    """Read the tokenizer of a model folder and compose its framing.

    Args:
        folder: Verified model folder.
        config: Content of its config.json.
        add_generation_prompt: End the prompt with the assistant's token, as vLLM and the Hy-MT2 card do; False ends
            it as the HY-MT1.5 card's snippet does.

    Raises:
        PreflightError: Template and tokenizer do not fit each other or the config.
    """
    from tokenizers import Tokenizer as Backend

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = content.get("added_tokens") or []
    try:
        full = Backend.from_str(json.dumps({**content, "truncation": None, "padding": None}))
        full.encode_special_tokens = False
        bare = Backend.from_str(
            json.dumps({**content, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None})
        )
        prefix, suffix, rendered = _framing(folder, full, add_generation_prompt)
    except PreflightError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions, jinja2 its own; the cause is the folder
        what = str(error).strip().splitlines() or [""]
        raise PreflightError(
            f"{folder}: its tokenizer cannot be used ({type(error).__name__}: {what[0]}). Download the model again."
        ) from error
    vocab_size = int(config.get("vocab_size", 0))
    if full.get_vocab_size() > vocab_size > 0:
        raise PreflightError(
            f"{folder}: the tokenizer has {full.get_vocab_size()} tokens, the network {vocab_size}: they belong to "
            "different models. Download the model again."
        )
    stop = _stop_ids(folder, config)
    pad = config.get("pad_token_id")
    tokenizer = Tokenizer(
        full=full,
        bare=bare,
        prefix=prefix,
        suffix=suffix,
        control=frozenset({int(token["id"]) for token in added} | set(prefix) | set(suffix) | set(stop)),
        stop=stop,
        pad=int(pad) if pad is not None and pad >= 0 else stop[0],
    )
    ours = [*prefix, *tokenizer.encode([_PROBE])[0], *suffix]
    if ours != rendered:
        raise PreflightError(
            f"{folder}: the chat template gives other tokens than our composition for a plain text "
            f"({rendered[:8]}... against {ours[:8]}...). Its prompts would be wrong; the model is refused."
        )
    return tokenizer


def _framing(
    folder: Path, full: Any, add_generation_prompt: bool
) -> tuple[tuple[int, ...], tuple[int, ...], list[int]]:
    """Ids before and after the user turn, and the template's own ids for the probe."""
    from transformers import PreTrainedTokenizerFast

    checkpoint = PreTrainedTokenizerFast.from_pretrained(str(folder), trust_remote_code=False)
    if not checkpoint.chat_template:
        raise PreflightError(f"{folder} has no chat template (tokenizer_config.json or chat_template.jinja).")

    def render(text: str) -> str:
        turn = [{"role": "user", "content": text}]
        return str(checkpoint.apply_chat_template(turn, tokenize=False, add_generation_prompt=add_generation_prompt))

    before, found, after = render(_SENTINEL).partition(_SENTINEL)
    if not found or _SENTINEL in after:
        raise PreflightError(f"{folder}: the chat template does not hold the user's text exactly once.")
    prefix, suffix = (tuple(full.encode(text, add_special_tokens=False).ids) for text in (before, after))
    return prefix, suffix, list(full.encode(render(_PROBE), add_special_tokens=False).ids)


def _stop_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    generation = folder / "generation_config.json"
    ids: list[int] = []
    sources = [config.get("eos_token_id")]
    if generation.is_file():
        try:
            sources.insert(0, json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id"))
        except (AttributeError, ValueError) as error:
            raise PreflightError(f"{generation} is not a JSON object; download the model again.") from error
    for value in sources:
        ids += value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) for token in ids):
        raise PreflightError(f"{folder}: eos_token_id is {ids}, which are not token ids; download the model again.")
    if not ids:
        raise PreflightError(f"{folder}: neither generation_config.json nor config.json names an eos_token_id.")
    return tuple(dict.fromkeys(int(token) for token in ids))
