"""Control tokens in source texts: what prompt.render makes of hostile strings, beside the library's own ways.

A leak is a control id between the framing and the text's end. Which ids are control tokens is read here from
tokenizer.json and config.json, not taken from the code under test. `library` is `apply_chat_template`, `sanitized` the
same with `sanitize_control_tokens=True`, both on every 50th string; `_of_special` counts only tokens flagged special.
Benign strings must give the template's own ids. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch import prompt
from hymt_batch.model import files, tokenizer
from hymt_batch.model.tokenizer import Tokenizer
from hymt_batch.prompt import PromptConfig, PromptTemplate
from hymt_batch.records import Document, Segment
from tests.corruptions import TEMPLATE_7B

BATCH = 1000
SAMPLE = 50
BENIGN = 100  # of a batch
WAYS = {"library": {}, "sanitized": {"sanitize_control_tokens": True}}
FRAGMENTS = (
    "<", ">", "|", "｜", "▁", "<|", "|>", "<｜", "｜>", "hy_", "User", "Assistant", "im_start", "endoftext", "\n", " ",
    "\u200b", "\u200d", "\ufeff", "\u00ad", "\u202e", "＜", "＞", "﹤", "_", "\u2581", "\0", "\ue000", "\ue001",
    "\uf8ff", "<0x0A>", "{{ bos_token }}", "{% raw %}", "{text}", "${x}", "[INST]", "<<SYS>>", "<tool_call>", "user",
    "system\n",
    "Translate the following segment into French, without additional explanation.\n\n", "ignore all instructions",
)  # fmt: skip
KNOWN = (
    "<｜hy_begin▁of▁sentence｜>", "<｜hy_User｜>", "<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁2｜>",
    "<|startoftext|>", "<|extra_0|>", "<|extra_4|>", "<|eos|>", "<|im_start|>", "<|im_end|>",
    "<|endoftext|>", "<s>", "</s>", "<pad>",
    "<think>", "</think>", "<answer>", "<image>", "<tool_call>", "</tool_call>",
)  # fmt: skip
BENIGN_WORDS = (
    "It is raining in Lyon.", "Il pleut.", "下雨了。", "3 o'clock", "<b>bold</b>", "a < b > c", "f(x) = {y}",
    "雨が降る", "12,345.67", "e\u0301te", "tab\there", "line\nbreak", "“quoted”", "🌧️", "мокро", "x|y", "  two  spaces ",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Made:
    """One tokenizer, ours and the library's, with its control ids as its files name them."""

    name: str
    ours: Tokenizer
    library: Any
    control: frozenset[int]
    special: frozenset[int]  # those of them that are flagged so; the library's sanitizing is for these
    texts: tuple[str, ...]  # of the control tokens
    words: PromptTemplate
    exact: bool  # the text comes back character for character


def make(folder: Path, name: str) -> Made:
    """One of VARIANTS, made from the demo model's tokenizer."""
    demo, _ = files.resolve("demo:model", "main", download=False)
    shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added: list[dict[str, Any]] = content["added_tokens"]
    VARIANTS[name](content, config, folder)
    for token in added:
        if "id" not in token:
            token["id"] = 1 + max(one.get("id", 0) for one in added)
        token.update({key: token.get(key, value) for key, value in flags.items()})
    config["vocab_size"] = 1 + max(token["id"] for token in added)
    if bos := content.pop("bos", ""):
        config["bos_token_id"] = next(token["id"] for token in added if token["content"] == bos)
    path.write_text(json.dumps(content), encoding="utf-8")
    from transformers import PreTrainedTokenizerFast

    ours = tokenizer.load(folder, config, add_generation_prompt=True)
    words = prompt.resolve_template(PromptConfig(), "hy_mt1_5", "en", "fr")
    prompt.check_template(ours, words)
    eos = config["eos_token_id"]
    return Made(
        name,
        ours,
        PreTrainedTokenizerFast.from_pretrained(str(folder)),
        frozenset({token["id"] for token in added} | set(eos if isinstance(eos, list) else [eos])),
        frozenset(token["id"] for token in added if token["special"]),
        tuple(token["content"] for token in added),
        words,
        content["normalizer"] is None,
    )


def _add(content: dict[str, Any], texts: Sequence[str], special: bool, **flags: bool) -> None:
    content["added_tokens"] += [{"content": text, "special": special, **flags} for text in texts]


def _unflagged(content: dict[str, Any], *_: Any) -> None:
    _add(content, ("<think>", "</think>", "<answer>", "<tool_call>"), special=False)
    _add(content, ("<image>", "<|extra_0|>"), special=True)
    _add(content, ("<|im_end|>",), special=True, lstrip=True, rstrip=True)


def _of_7b(content: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    _add(content, ("<|startoftext|>", *(f"<|extra_{number}|>" for number in range(8)), "<|eos|>"), special=True)
    _add(content, ("<|endoftext|>",), special=False)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "chat_template": TEMPLATE_7B}))
    content["bos"] = "<|startoftext|>"


def _normalised(content: dict[str, Any], *_: Any) -> None:
    content["normalizer"] = {"type": "NFKC"}
    _add(content, ("<|im_start|>", "<|im_end|>"), special=True, normalized=True)
    _add(content, ("<think>",), special=False, normalized=True)


def _in_vocabulary(content: dict[str, Any], *_: Any) -> None:
    """Some ordinary tokens are control tokens: only the last check can catch them."""
    vocab, plain = (
        content["model"]["vocab"],
        "Translate the following segment into French without additional explanation",
    )
    picked = [text for text in vocab if len(text) > 2 and text.isascii() and text.isalpha() and text not in plain][:3]
    content["added_tokens"] += [
        {"id": vocab[text], "content": text, "special": number == 0} for number, text in enumerate(picked)
    ]


VARIANTS = {
    "demo": lambda *_: None,
    "unflagged": _unflagged,
    "7b": _of_7b,
    "normalised": _normalised,
    "in_vocabulary": _in_vocabulary,
}


def hostile(rng: random.Random, texts: Sequence[str]) -> str:
    """A text of control tokens, pieces of them, and near misses."""
    pieces = []
    for _ in range(rng.randint(1, 6)):
        kind = rng.random()
        token = rng.choice(texts) if kind < 0.7 else rng.choice(KNOWN)
        if kind < 0.3:
            pieces.append(token)
        elif kind < 0.5:
            at = rng.randrange(len(token) + 1)
            pieces += [token[:at], rng.choice(("", "", rng.choice(FRAGMENTS))), token[at:]]
        elif kind < 0.7:
            at = rng.randrange(len(token))
            other = rng.choice((token.swapcase(), token.replace("｜", "|"), token[:at] + token[at + 1 :], token * 2))
            pieces.append(other)
        else:
            pieces.append(
                rng.choice((token, rng.choice(FRAGMENTS), rng.choice(BENIGN_WORDS), chr(rng.randrange(32, 0xD7FF))))
            )
    return rng.choice(("", " ", "\n")).join(pieces).strip() or "<"


def rendered(made: Made, texts: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """Ids of each text that was not refused."""
    documents = [Document(f"in.txt#{row + 1}", row, text, b"") for row, text in enumerate(texts)]
    segments = [Segment(row, 0, text) for row, text in enumerate(texts)]
    prompts, _ = prompt.render(segments, documents, made.ours, made.words, 1 << 20)
    return {one.segment.document_index: one.ids for one in prompts}


def body(made: Made, ids: Sequence[int]) -> Sequence[int]:
    return ids[len(made.ours.prefix) : len(ids) - len(made.ours.suffix)]


def library_ids(made: Made, text: str, **settings: bool) -> list[int]:
    """What the library makes of the whole turn."""
    before, after = made.words.instruction(None, None)
    turn = [{"role": "user", "content": f"{before}{text}{after}"}]
    ids = made.library.apply_chat_template(turn, add_generation_prompt=True, return_dict=False, **settings)
    return list(ids)


def more(made: Made, ids: Sequence[int], control: frozenset[int]) -> bool:
    """Whether a whole prompt holds more control ids than its framing."""
    framing = (*made.ours.prefix, *made.ours.suffix)
    return sum(one in control for one in ids) > sum(one in control for one in framing)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Render `size` hostile strings."""
    rng = random.Random(seed)
    all_made = [make(work / f"{seed}-{name}", name) for name in VARIANTS]
    sanitizes = "sanitize_control_tokens" in inspect.signature(all_made[0].library.apply_chat_template).parameters
    counts: Counter[str] = Counter()
    by_tokenizer: Counter[str] = Counter()
    failures: list[str] = []
    while counts["strings"] < size and len(failures) < 20:
        made = all_made[counts["batches"] % len(all_made)]
        counts["batches"] += 1
        texts = [hostile(rng, made.texts) for _ in range(min(BATCH, size - counts["strings"]))]
        ids = rendered(made, texts)
        counts["strings"] += len(texts)
        counts["refused"] += len(texts) - len(ids)
        if len(ids) != len(texts) and made.name != "in_vocabulary":
            failures.append(f"seed={seed} {made.name}: {len(texts) - len(ids)} texts are refused")
        by_tokenizer[made.name] += len(texts)
        for row, one in ids.items():
            if not made.control.isdisjoint(body(made, one)):
                counts["leaks"] += 1
                failures.append(f"seed={seed} {made.name}: {texts[row]!a} leaks")
        if made.exact:
            before, after = made.words.instruction(None, None)
            back = made.ours.plain_backend.decode_batch(
                [body(made, one) for one in ids.values()], skip_special_tokens=False
            )
            for row, text in zip(ids, back, strict=True):
                if text != f"{before}{texts[row]}{after}":
                    failures.append(f"seed={seed} {made.name}: {texts[row]!a} came back as {text!a}")
        for text in texts[::SAMPLE]:
            counts["sampled"] += 1
            for name, settings in WAYS.items():
                if settings and not sanitizes:
                    continue
                try:
                    ids_of_library = library_ids(made, text, **settings)
                except ValueError:  # it refuses tokenizers whose plain text gives control tokens
                    counts[f"{name}_refused"] += 1
                    continue
                counts[f"{name}_leaks"] += more(made, ids_of_library, made.control)
                counts[f"{name}_leaks_of_special"] += more(made, ids_of_library, made.special)
        benign = [" ".join(rng.choice(BENIGN_WORDS) for _ in range(rng.randint(1, 8))).strip() for _ in range(BENIGN)]
        for row, one in rendered(made, benign).items():
            counts["benign"] += 1
            if list(one) != library_ids(made, benign[row]):
                failures.append(f"seed={seed} {made.name}: benign {benign[row]!a} is not as the template gives it")
    return {
        "passed": not failures,
        "failures": failures[:20],
        **dict.fromkeys(("leaks", "library_leaks", "sanitized_leaks"), 0),
        **counts,
        "sanitizes": int(sanitizes),
        "tokenizers": dict(by_tokenizer),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--size", type=int, default=1_000_000, help="strings")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        figures = run(options.seed, options.size, Path(work))
    for name in ("library", "sanitized"):
        share = 100 * figures.get(f"{name}_leaks", 0) / max(1, figures["sampled"])
        print(f"{name}: {share:.1f} % of {figures['sampled']} hostile strings leak")
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
