"""Convert text to token ids and back, with the chat format of the checkpoint.

The user turn is encoded by a copy of the tokenizer without added tokens, so that no text can become a control token.
The ids before and after the user turn come from the checkpoint's chat template, rendered once with a sentinel as the
user's text. Does not know the prompt template of a task.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from hymt_batch.errors import PreflightError, TextError, first_line, wrap_exception
from hymt_batch.model import chunked_encode
from hymt_batch.model.chat_template import check_in_subprocess
from hymt_batch.model.incremental_encode import IncrementalEncoder
from hymt_batch.model.refusal import refusal

log = logging.getLogger(__name__)

_MARKER = re.compile(r"<[|｜][^<>]{1,80}[|｜]>")
_SENTINEL = "hymt sentinel 7f3a"
_PROBE = "Translate the following segment into French, without additional explanation.\n\nIt is 3 o'clock, 你好."


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The tokenizer of a checkpoint, with its chat format."""

    backend: Any  # tokenizers.Tokenizer as shipped; decodes
    plain_backend: Any  # the same without added tokens; encodes the user's texts
    prefix: tuple[int, ...]  # ids before the user turn
    suffix: tuple[int, ...]  # ids after the user turn
    control_ids: frozenset[int]  # ids that must never come from a text
    stop_ids: tuple[int, ...]  # ids that end a translation
    pad_id: int
    incremental_encoder: IncrementalEncoder | None = None  # encodes many texts that follow the same instruction

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text without the chat format; to be checked with `has_control_ids`.

        Raises:
            TextError: The tokenizer's library fails on one of the texts.
        """
        return chunked_encode.encode(self.plain_backend, texts)

    def encode_with_head(self, head: str, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids that `encode` returns for head + text, for each text, in less time."""
        if self.incremental_encoder is None:
            return self.encode([head + text for text in texts])
        return list(
            chain.from_iterable(self.incremental_encoder.encode(head, batch) for batch in chunked_encode.batches(texts))
        )

    def count(self, text: str) -> int:
        """Return the number of tokens of a text without the chat format."""
        return chunked_encode.count_tokens(self.plain_backend, text)

    def token_starts(self, text: str) -> Iterator[list[int]]:
        """Yield the character positions where the tokens of a text start, in batches."""
        return chunked_encode.token_starts(self.plain_backend, text)

    @property
    def last_prompt_token(self) -> tuple[str, int]:
        """Text and id of the last token of every prompt."""
        return self.backend.decode(self.suffix[-1:], skip_special_tokens=False), self.suffix[-1]

    def has_control_ids(self, body: Sequence[int]) -> bool:
        """Return whether the ids of a text contain a control id, which only the chat format may contain."""
        return not self.control_ids.isdisjoint(body)

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row of new tokens, without control tokens; "" if the tokenizer fails on a row."""
        has_no_control_id = self.control_ids.isdisjoint
        rows = [
            row if has_no_control_id(row) else [token for token in row if token not in self.control_ids]
            for row in sequences
        ]
        try:
            return self._decode_batch(rows)
        except TextError:  # at least one row fails: decode them one by one
            texts = []
            for row in rows:
                try:
                    texts += self._decode_batch([row])
                except TextError:
                    texts.append("")
            return texts

    def _decode_batch(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = chunked_encode.call_backend(self.backend.decode_batch, sequences, skip_special_tokens=True)
        return texts


def _raise_machine_error(error: Exception) -> None:
    """Raise the error if the machine caused it, not the model: too many open files, no memory, a failing disk."""
    is_machine_error = isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError)
    if is_machine_error and (wrapped := wrap_exception(error)) is not None:
        raise wrapped from error


def token_counter(folder: Path) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text with the model's tokenizer, without transformers; for plans.

    Raises:
        PreflightError: tokenizer.json cannot be used.
    """
    path = folder / "tokenizer.json"
    try:
        backend = chunked_encode.plain_backend(json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:  # tokenizers raises bare Exceptions; the cause is the file
        _raise_machine_error(error)
        raise refusal(f"{path} cannot be used ({error})", id="B6") from error
    return partial(chunked_encode.count_tokens, backend)


def load(folder: Path, config: dict[str, Any], *, add_generation_prompt: bool) -> Tokenizer:
    """Load the tokenizer of a model folder and determine its chat format.

    Args:
        folder: Verified model folder.
        config: Content of its config.json.
        add_generation_prompt: End the prompt with the assistant's token, as the Hy-MT2 card does; False ends it as the
            cards of HY-MT1.5 and Hunyuan-MT do.

    Raises:
        PreflightError: Chat template, tokenizer and config do not match one another.
    """
    from tokenizers import Tokenizer as Backend

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added_tokens = content.get("added_tokens") or []
    try:
        full = Backend.from_str(json.dumps({**content, "truncation": None, "padding": None}))
        full.encode_special_tokens = False
        plain_backend = chunked_encode.plain_backend(content)
        prefix, suffix, rendered = _framing(folder, full, add_generation_prompt)
    except PreflightError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions, jinja2 its own; the cause is the folder
        _raise_machine_error(error)
        raise refusal(
            f"{folder}: the tokenizer cannot be used ({type(error).__name__}: {first_line(error)})", id="B6"
        ) from error
    vocab_size = int(config.get("vocab_size", 0))
    if full.get_vocab_size() > vocab_size > 0:
        raise refusal(
            f"{folder}: the tokenizer has {full.get_vocab_size()} tokens, but the network has {vocab_size}",
            why="they belong to different models",
            id="B19",
        )
    stop_ids = _stop_ids(folder, config)
    pad_id = config.get("pad_token_id")
    control_ids = {int(token["id"]) for token in added_tokens}
    _check_ids(folder, config, control_ids, stop_ids)
    _check_framing(folder, config, full, control_ids, prefix, suffix)
    tokenizer = Tokenizer(
        backend=full,
        plain_backend=plain_backend,
        prefix=prefix,
        suffix=suffix,
        control_ids=frozenset(control_ids | set(prefix) | set(suffix) | set(stop_ids)),
        stop_ids=stop_ids,
        pad_id=int(pad_id) if pad_id is not None and pad_id >= 0 else stop_ids[0],
        incremental_encoder=IncrementalEncoder(plain_backend, partial(chunked_encode.encode, plain_backend), content),
    )
    ours = [*prefix, *tokenizer.encode([_PROBE])[0], *suffix]
    if ours != rendered:
        raise refusal(
            f"{folder}: for a plain text, the chat template gives the tokens {rendered[:8]}..., but hymt-batch "
            f"builds {ours[:8]}...",
            why="Its prompts would be wrong, so the model is refused.",
            id="B20",
        )
    return tokenizer


def _check_ids(folder: Path, config: dict[str, Any], control_ids: set[int], stop_ids: Sequence[int]) -> None:
    """Check that the special ids of the config are control tokens of this tokenizer.

    Source: the 1.8B and the 7B models have different tokenizers and ids; in xinference#5029 the end token of one was
    used for the other, and the only symptom was endless text.
    """
    unknown_ids = [token_id for token_id in stop_ids if token_id not in control_ids]
    if unknown_ids:
        raise refusal(
            f"{folder}: eos_token_id {unknown_ids[0]} is not one of the {len(control_ids)} control tokens of "
            "tokenizer.json",
            why="config and tokenizer belong to different models",
            id="B19",
        )
    for name in ("bos_token_id", "pad_token_id"):  # some configs of the 7B model have the unused id 1
        token_id = config.get(name)
        if isinstance(token_id, int) and token_id >= 0 and token_id not in control_ids:
            log.warning("%s: %s=%d is not a control token of tokenizer.json and is ignored", folder, name, token_id)


def _bos_id(folder: Path, config: dict[str, Any], backend: Any) -> int | None:
    """Return the id of the bos token that tokenizer_config.json names, else the bos_token_id of config.json."""
    try:
        bos_token = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("bos_token")
    except (OSError, ValueError, AttributeError):
        bos_token = None
    text = bos_token.get("content") if isinstance(bos_token, dict) else bos_token
    bos_id = backend.token_to_id(text) if isinstance(text, str) else None
    return bos_id if bos_id is not None else config.get("bos_token_id")


def _check_framing(
    folder: Path,
    config: dict[str, Any],
    backend: Any,
    control_ids: set[int],
    prefix: Sequence[int],
    suffix: Sequence[int],
) -> None:
    """Check that the chat template uses this tokenizer's control tokens, and the bos token at most once."""
    bos = _bos_id(folder, config, backend)
    unknown_markers = _MARKER.findall(
        backend.decode(
            [token_id for token_id in (*prefix, *suffix) if token_id not in control_ids], skip_special_tokens=False
        )
    )
    problem = ""
    if unknown_markers:
        problem = f"writes {unknown_markers[0]}, which is not a token of this tokenizer"
    elif not control_ids.intersection(prefix) or not control_ids.intersection(suffix):
        problem = "does not put a control token before and after the user's text"
    elif bos in control_ids and list(prefix).count(bos) > 1:
        problem = f"writes the bos token {bos} {list(prefix).count(bos)} times instead of once"
    if problem:
        raise refusal(
            f"{folder}: the chat template {problem}",
            why="it belongs to another model, so prompts would be wrong",
            id="B20",
        )


def _framing(
    folder: Path, backend: Any, add_generation_prompt: bool
) -> tuple[tuple[int, ...], tuple[int, ...], list[int]]:
    """Return the ids before and after the user turn, and the ids of the probe text rendered by the chat template."""
    from transformers import PreTrainedTokenizerFast

    checkpoint = PreTrainedTokenizerFast.from_pretrained(str(folder), trust_remote_code=False)
    if not checkpoint.chat_template:
        raise refusal(f"{folder} has no chat template (tokenizer_config.json or chat_template.jinja)", id="B20")

    variables = {**checkpoint.special_tokens_map, "add_generation_prompt": add_generation_prompt}
    turns = [{**variables, "messages": [{"role": "user", "content": text}]} for text in (_SENTINEL, _PROBE)]
    check_in_subprocess(str(checkpoint.get_chat_template()), turns, str(folder), folder / "tokenizer.json")

    def render(text: str) -> str:
        turn = [{"role": "user", "content": text}]
        return str(checkpoint.apply_chat_template(turn, tokenize=False, add_generation_prompt=add_generation_prompt))

    prefix_text, separator, suffix_text = render(_SENTINEL).partition(_SENTINEL)
    if not separator or _SENTINEL in suffix_text:
        raise refusal(f"{folder}: the chat template does not contain the user's text exactly once", id="B20")
    prefix, suffix = (tuple(backend.encode(text, add_special_tokens=False).ids) for text in (prefix_text, suffix_text))
    return prefix, suffix, list(backend.encode(render(_PROBE), add_special_tokens=False).ids)


def _stop_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    generation = folder / "generation_config.json"
    ids: list[int] = []
    sources = [config.get("eos_token_id")]
    if generation.is_file():
        try:
            sources.insert(0, json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id"))
        except (AttributeError, ValueError) as error:
            raise refusal(f"{generation} is not a JSON object", id="B24") from error
    for value in sources:
        ids += value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) for token in ids):
        raise refusal(f"{folder}: eos_token_id is {ids}, which is not a list of token ids", id="B24")
    if not ids:
        raise refusal(f"{folder}: neither generation_config.json nor config.json has an eos_token_id", id="B24")
    return tuple(dict.fromkeys(int(token) for token in ids))
