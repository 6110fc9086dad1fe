"""Text to token ids and back, with the chat format of the checkpoint composed once.

The user turn is encoded by a copy of the tokenizer that has no added tokens, so that no text, whatever it contains,
becomes a control token; the framing ids around it come from the checkpoint's own chat template, rendered once around
a sentinel. Does not know the prompts' wording.
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

log = logging.getLogger(__name__)

_MARKER = re.compile(r"<[|｜][^<>]{1,80}[|｜]>")
_SENTINEL = "hymt sentinel 7f3a"
_PROBE = "Translate the following segment into French, without additional explanation.\n\nIt is 3 o'clock, 你好."


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The tokenizer of a checkpoint, with its chat format."""

    backend: Any  # tokenizers.Tokenizer as shipped; decodes
    plain_backend: Any  # the same without added tokens; encodes what users wrote
    prefix: tuple[int, ...]  # ids before the user turn
    suffix: tuple[int, ...]  # ids after it
    control_ids: frozenset[int]  # ids that must never come from a text
    stop_ids: tuple[int, ...]  # ids that end a translation
    pad_id: int
    incremental_encoder: IncrementalEncoder | None = None  # between instructions and texts

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text alone, without framing; never a control id (check `leaks`).

        Raises:
            TextError: The tokenizer's library fails on one of them.
        """
        return chunked_encode.encode(self.plain_backend, texts)

    def encode_with_head(self, head: str, texts: Sequence[str]) -> list[list[int]]:
        """What `encode` gives for head + text, of each text, in less time."""
        if self.incremental_encoder is None:
            return self.encode([head + text for text in texts])
        return list(
            chain.from_iterable(self.incremental_encoder.encode(head, some) for some in chunked_encode.batches(texts))
        )

    def count(self, text: str) -> int:
        """Tokens of a text alone."""
        return chunked_encode.count_tokens(self.plain_backend, text)

    def token_starts(self, text: str) -> Iterator[list[int]]:
        """Where the tokens of a text begin, in characters, some at a time."""
        return chunked_encode.token_starts(self.plain_backend, text)

    @property
    def last_prompt_token(self) -> tuple[str, int]:
        """Text and id of the token that every prompt ends in."""
        return self.backend.decode(self.suffix[-1:], skip_special_tokens=False), self.suffix[-1]

    def has_control_ids(self, body: Sequence[int]) -> bool:
        """Whether a body holds an id that only the framing may hold."""
        return not self.control_ids.isdisjoint(body)

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of new tokens; control tokens are left out."""
        clean = self.control_ids.isdisjoint
        plain = [row if clean(row) else [token for token in row if token not in self.control_ids] for row in sequences]
        try:
            return self._decode_batch(plain)
        except TextError:  # of one of them, which is left without a text
            texts = []
            for row in plain:
                try:
                    texts += self._decode_batch([row])
                except TextError:
                    texts.append("")
            return texts

    def _decode_batch(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = chunked_encode.call_backend(self.backend.decode_batch, sequences, skip_special_tokens=True)
        return texts


def _raise_machine_error(error: Exception) -> None:
    """Raise what is no fault of the folder's: too few open files, no memory, a disk that fails."""
    ours = isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError)
    if ours and (told := wrap_exception(error)) is not None:
        raise told from error


def token_counter(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a text, with the model's own tokenizer and no other library; for plans.

    Raises:
        PreflightError: tokenizer.json cannot be used.
    """
    path = folder / "tokenizer.json"
    try:
        bare = chunked_encode.plain_backend(json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:  # tokenizers raises bare Exceptions; the cause is the file
        _raise_machine_error(error)
        raise PreflightError(f"{path} cannot be used ({error}). Download the model again.", id="B6") from error
    return partial(chunked_encode.count_tokens, bare)


def load(folder: Path, config: dict[str, Any], *, add_generation_prompt: bool) -> Tokenizer:
    """Read the tokenizer of a model folder and compose its framing.

    Args:
        folder: Verified model folder.
        config: Content of its config.json.
        add_generation_prompt: End the prompt with the assistant's token, as the Hy-MT2 card does; False ends it as the
            cards of HY-MT1.5 and Hunyuan-MT do.

    Raises:
        PreflightError: Template and tokenizer do not fit each other or the config.
    """
    from tokenizers import Tokenizer as Backend

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = content.get("added_tokens") or []
    try:
        full = Backend.from_str(json.dumps({**content, "truncation": None, "padding": None}))
        full.encode_special_tokens = False
        bare = chunked_encode.plain_backend(content)
        prefix, suffix, rendered = _framing(folder, full, add_generation_prompt)
    except PreflightError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions, jinja2 its own; the cause is the folder
        _raise_machine_error(error)
        raise PreflightError(
            f"{folder}: its tokenizer cannot be used ({type(error).__name__}: {first_line(error)}). Download the model "
            "again.",
            id="B6",
        ) from error
    vocab_size = int(config.get("vocab_size", 0))
    if full.get_vocab_size() > vocab_size > 0:
        raise PreflightError(
            f"{folder}: the tokenizer has {full.get_vocab_size()} tokens, the network {vocab_size}: they belong to "
            "different models. Download the model again.",
            id="B19",
        )
    stop = _stop_ids(folder, config)
    pad = config.get("pad_token_id")
    control = {int(token["id"]) for token in added}
    _check_ids(folder, config, control, stop)
    _check_framing(folder, config, full, control, prefix, suffix)
    tokenizer = Tokenizer(
        backend=full,
        plain_backend=bare,
        prefix=prefix,
        suffix=suffix,
        control_ids=frozenset(control | set(prefix) | set(suffix) | set(stop)),
        stop_ids=stop,
        pad_id=int(pad) if pad is not None and pad >= 0 else stop[0],
        incremental_encoder=IncrementalEncoder(bare, partial(chunked_encode.encode, bare), content),
    )
    ours = [*prefix, *tokenizer.encode([_PROBE])[0], *suffix]
    if ours != rendered:
        raise PreflightError(
            f"{folder}: the chat template gives other tokens than our composition for a plain text "
            f"({rendered[:8]}... against {ours[:8]}...). Its prompts would be wrong; the model is refused.",
            id="B20",
        )
    return tokenizer


def _check_ids(folder: Path, config: dict[str, Any], control_ids: set[int], stop_ids: Sequence[int]) -> None:
    """The ids that the network was trained with must be control tokens of this tokenizer.

    Source: the 1.8B and the 7B have other tokenizers and ids; xinference#5029 took the one's end token for the other,
    and nothing but endless text told of it.
    """
    missing = [token for token in stop_ids if token not in control_ids]
    if missing:
        raise PreflightError(
            f"{folder}: eos_token_id {missing[0]} is no control token of tokenizer.json (it has "
            f"{len(control_ids)}): they "
            "belong to different models. Download the model again.",
            id="B19",
        )
    for name in ("bos_token_id", "pad_token_id"):  # some configs of the 7B say 1, which nothing reads
        token = config.get(name)
        if isinstance(token, int) and token >= 0 and token not in control_ids:
            log.warning("%s: %s %d is no control token of tokenizer.json; it is not used", folder, name, token)


def _bos_id(folder: Path, config: dict[str, Any], backend: Any) -> int | None:
    """The beginning token: as tokenizer_config.json names it, else by config.json's number."""
    try:
        named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("bos_token")
    except (OSError, ValueError, AttributeError):
        named = None
    text = named.get("content") if isinstance(named, dict) else named
    found = backend.token_to_id(text) if isinstance(text, str) else None
    return found if found is not None else config.get("bos_token_id")


def _check_framing(
    folder: Path,
    config: dict[str, Any],
    backend: Any,
    control_ids: set[int],
    prefix: Sequence[int],
    suffix: Sequence[int],
) -> None:
    """The chat template must speak in this tokenizer's control tokens, and begin once."""
    bos = _bos_id(folder, config, backend)
    broken = _MARKER.findall(
        backend.decode([t for t in (*prefix, *suffix) if t not in control_ids], skip_special_tokens=False)
    )
    what = ""
    if broken:
        what = f"writes {broken[0]}, which is no token of this tokenizer"
    elif not control_ids.intersection(prefix) or not control_ids.intersection(suffix):
        what = "puts no control token before and after the user's text"
    elif bos in control_ids and list(prefix).count(bos) > 1:
        what = f"has the beginning token {bos} {list(prefix).count(bos)} times instead of once"
    if what:
        raise PreflightError(
            f"{folder}: the chat template {what}; it belongs to another model, and its prompts would be wrong. "
            "Download the model again.",
            id="B20",
        )


def _framing(
    folder: Path, backend: Any, add_generation_prompt: bool
) -> tuple[tuple[int, ...], tuple[int, ...], list[int]]:
    """Ids before and after the user turn, and the template's own ids for the probe."""
    from transformers import PreTrainedTokenizerFast

    checkpoint = PreTrainedTokenizerFast.from_pretrained(str(folder), trust_remote_code=False)
    if not checkpoint.chat_template:
        raise PreflightError(
            f"{folder} has no chat template (tokenizer_config.json or chat_template.jinja). Download the model again.",
            id="B20",
        )

    asked = {**checkpoint.special_tokens_map, "add_generation_prompt": add_generation_prompt}
    turns = [{**asked, "messages": [{"role": "user", "content": text}]} for text in (_SENTINEL, _PROBE)]
    check_in_subprocess(str(checkpoint.get_chat_template()), turns, str(folder), folder / "tokenizer.json")

    def render(text: str) -> str:
        turn = [{"role": "user", "content": text}]
        return str(checkpoint.apply_chat_template(turn, tokenize=False, add_generation_prompt=add_generation_prompt))

    before, found, after = render(_SENTINEL).partition(_SENTINEL)
    if not found or _SENTINEL in after:
        raise PreflightError(
            f"{folder}: the chat template does not hold the user's text exactly once. Download the model again.",
            id="B20",
        )
    prefix, suffix = (tuple(backend.encode(text, add_special_tokens=False).ids) for text in (before, after))
    return prefix, suffix, list(backend.encode(render(_PROBE), add_special_tokens=False).ids)


def _stop_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    generation = folder / "generation_config.json"
    ids: list[int] = []
    sources = [config.get("eos_token_id")]
    if generation.is_file():
        try:
            sources.insert(0, json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id"))
        except (AttributeError, ValueError) as error:
            raise PreflightError(f"{generation} is not a JSON object; download the model again.", id="B24") from error
    for value in sources:
        ids += value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) for token in ids):
        raise PreflightError(
            f"{folder}: eos_token_id is {ids}, which are not token ids; download the model again.", id="B24"
        )
    if not ids:
        raise PreflightError(
            f"{folder}: neither generation_config.json nor config.json names an eos_token_id.", id="B24"
        )
    return tuple(dict.fromkeys(int(token) for token in ids))
