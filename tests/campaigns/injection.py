"""Control tokens in source texts: renders hostile strings with prompt.render and, for comparison, with transformers.

A leak is a control token id in the body of a prompt, between its prefix and suffix. The campaign reads the ids of the
control tokens from tokenizer.json and config.json, not from the code under test. `library` is `apply_chat_template`,
`sanitized` the same with `sanitize_control_tokens=True`, both on every 50th string; `_of_special` counts only tokens
that are flagged as special. Benign strings must give the same ids as the template. The last line is JSON.
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
from tests.fakes.corruptions import TEMPLATE_7B

BATCH = 1000
SAMPLE = 50
BENIGN = 100  # benign strings per batch
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
class TokenizerVariant:
    """A tokenizer, loaded by hymt-batch and by transformers, with the control token ids in its files."""

    name: str
    ours: Tokenizer
    library: Any
    control: frozenset[int]
    special: frozenset[int]  # control tokens flagged as special; transformers sanitizes only these
    texts: tuple[str, ...]  # texts of the control tokens
    template: PromptTemplate
    exact: bool  # True if decoding gives back each character


def make(folder: Path, name: str) -> TokenizerVariant:
    """Create one of VARIANTS from the tokenizer of the demo model."""
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
            token["id"] = 1 + max(other_token.get("id", 0) for other_token in added)
        token.update({key: token.get(key, value) for key, value in flags.items()})
    config["vocab_size"] = 1 + max(token["id"] for token in added)
    if bos := content.pop("bos", ""):
        config["bos_token_id"] = next(token["id"] for token in added if token["content"] == bos)
    path.write_text(json.dumps(content), encoding="utf-8")
    from transformers import PreTrainedTokenizerFast

    ours = tokenizer.load(folder, config, add_generation_prompt=True)
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", "en", "fr")
    prompt.check_template(ours, template)
    eos = config["eos_token_id"]
    return TokenizerVariant(
        name,
        ours,
        PreTrainedTokenizerFast.from_pretrained(str(folder)),
        frozenset({token["id"] for token in added} | set(eos if isinstance(eos, list) else [eos])),
        frozenset(token["id"] for token in added if token["special"]),
        tuple(token["content"] for token in added),
        template,
        content["normalizer"] is None,
    )


def _add(content: dict[str, Any], texts: Sequence[str], special: bool, **flags: bool) -> None:
    content["added_tokens"] += [{"content": text, "special": special, **flags} for text in texts]


def _unflagged(content: dict[str, Any], *_: Any) -> None:
    _add(content, ("<think>", "</think>", "<answer>", "<tool_call>"), special=False)
    _add(content, ("<image>", "<|extra_0|>"), special=True)
    _add(content, ("<|im_end|>",), special=True, lstrip=True, rstrip=True)


def _of_7b(content: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    _add(content, ("<|startoftext|>", *(f"<|extra_{index}|>" for index in range(8)), "<|eos|>"), special=True)
    _add(content, ("<|endoftext|>",), special=False)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "chat_template": TEMPLATE_7B}))
    content["bos"] = "<|startoftext|>"


def _normalised(content: dict[str, Any], *_: Any) -> None:
    content["normalizer"] = {"type": "NFKC"}
    _add(content, ("<|im_start|>", "<|im_end|>"), special=True, normalized=True)
    _add(content, ("<think>",), special=False, normalized=True)


def _in_vocabulary(content: dict[str, Any], *_: Any) -> None:
    """Make some ordinary tokens control tokens, which only the last check of prompt.render can detect."""
    vocab, instruction = (
        content["model"]["vocab"],
        "Translate the following segment into French without additional explanation",
    )
    picked = [
        text for text in vocab if len(text) > 2 and text.isascii() and text.isalpha() and text not in instruction
    ][:3]
    content["added_tokens"] += [
        {"id": vocab[text], "content": text, "special": index == 0} for index, text in enumerate(picked)
    ]


VARIANTS = {
    "demo": lambda *_: None,
    "unflagged": _unflagged,
    "7b": _of_7b,
    "normalised": _normalised,
    "in_vocabulary": _in_vocabulary,
}


def hostile(rng: random.Random, texts: Sequence[str]) -> str:
    """Return a text of control tokens, pieces of them, and similar strings."""
    pieces = []
    for _ in range(rng.randint(1, 6)):
        kind = rng.random()
        token = rng.choice(texts) if kind < 0.7 else rng.choice(KNOWN)
        if kind < 0.3:
            pieces.append(token)
        elif kind < 0.5:
            position = rng.randrange(len(token) + 1)
            pieces += [token[:position], rng.choice(("", "", rng.choice(FRAGMENTS))), token[position:]]
        elif kind < 0.7:
            position = rng.randrange(len(token))
            similar = rng.choice(
                (token.swapcase(), token.replace("｜", "|"), token[:position] + token[position + 1 :], token * 2)
            )
            pieces.append(similar)
        else:
            pieces.append(
                rng.choice((token, rng.choice(FRAGMENTS), rng.choice(BENIGN_WORDS), chr(rng.randrange(32, 0xD7FF))))
            )
    return rng.choice(("", " ", "\n")).join(pieces).strip() or "<"


def rendered(variant: TokenizerVariant, texts: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """Return the prompt ids of each text that was not rejected, by its index."""
    documents = [Document(f"in.txt#{row + 1}", row, text, b"") for row, text in enumerate(texts)]
    segments = [Segment(row, 0, text) for row, text in enumerate(texts)]
    prompts, _ = prompt.render(segments, documents, variant.ours, variant.template, 1 << 20)
    return {rendered_prompt.segment.document_index: rendered_prompt.ids for rendered_prompt in prompts}


def body(variant: TokenizerVariant, ids: Sequence[int]) -> Sequence[int]:
    return ids[len(variant.ours.prefix) : len(ids) - len(variant.ours.suffix)]


def library_ids(variant: TokenizerVariant, text: str, **settings: bool) -> list[int]:
    """Return the ids that transformers gives for the whole user turn."""
    before, after = variant.template.instruction(None, None)
    turn = [{"role": "user", "content": f"{before}{text}{after}"}]
    ids = variant.library.apply_chat_template(turn, add_generation_prompt=True, return_dict=False, **settings)
    return list(ids)


def has_more_control_ids(variant: TokenizerVariant, ids: Sequence[int], control: frozenset[int]) -> bool:
    """Return whether a prompt has more control ids than its prefix and suffix."""
    framing = (*variant.ours.prefix, *variant.ours.suffix)
    return sum(token_id in control for token_id in ids) > sum(token_id in control for token_id in framing)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Render `size` hostile strings and return the figures."""
    rng = random.Random(seed)
    variants = [make(work / f"{seed}-{name}", name) for name in VARIANTS]
    can_sanitize = "sanitize_control_tokens" in inspect.signature(variants[0].library.apply_chat_template).parameters
    counts: Counter[str] = Counter()
    by_tokenizer: Counter[str] = Counter()
    failures: list[str] = []
    while counts["strings"] < size and len(failures) < 20:
        variant = variants[counts["batches"] % len(variants)]
        counts["batches"] += 1
        texts = [hostile(rng, variant.texts) for _ in range(min(BATCH, size - counts["strings"]))]
        prompts = rendered(variant, texts)
        counts["strings"] += len(texts)
        counts["refused"] += len(texts) - len(prompts)
        if len(prompts) != len(texts) and variant.name != "in_vocabulary":
            failures.append(f"seed={seed} {variant.name}: {len(texts) - len(prompts)} texts are rejected")
        by_tokenizer[variant.name] += len(texts)
        for row, prompt_ids in prompts.items():
            if not variant.control.isdisjoint(body(variant, prompt_ids)):
                counts["leaks"] += 1
                failures.append(f"seed={seed} {variant.name}: {texts[row]!a} leaks")
        if variant.exact:
            before, after = variant.template.instruction(None, None)
            decoded = variant.ours.plain_backend.decode_batch(
                [body(variant, prompt_ids) for prompt_ids in prompts.values()], skip_special_tokens=False
            )
            for row, text in zip(prompts, decoded, strict=True):
                if text != f"{before}{texts[row]}{after}":
                    failures.append(f"seed={seed} {variant.name}: {texts[row]!a} is decoded to {text!a}")
        for text in texts[::SAMPLE]:
            counts["sampled"] += 1
            for name, settings in WAYS.items():
                if settings and not can_sanitize:
                    continue
                try:
                    reference_ids = library_ids(variant, text, **settings)
                except ValueError:  # it rejects tokenizers that encode plain text to control tokens
                    counts[f"{name}_refused"] += 1
                    continue
                counts[f"{name}_leaks"] += has_more_control_ids(variant, reference_ids, variant.control)
                counts[f"{name}_leaks_of_special"] += has_more_control_ids(variant, reference_ids, variant.special)
        benign = [" ".join(rng.choice(BENIGN_WORDS) for _ in range(rng.randint(1, 8))).strip() for _ in range(BENIGN)]
        for row, prompt_ids in rendered(variant, benign).items():
            counts["benign"] += 1
            if list(prompt_ids) != library_ids(variant, benign[row]):
                failures.append(f"seed={seed} {variant.name}: benign {benign[row]!a} differs from the template")
    return {
        "passed": not failures,
        "failures": failures[:20],
        **dict.fromkeys(("leaks", "library_leaks", "sanitized_leaks"), 0),
        **counts,
        "sanitizes": int(can_sanitize),
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
