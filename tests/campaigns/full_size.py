"""Load a model of the real shape with random weights on the CPU, translate a few rows, compare with from_pretrained.

Writes a model folder of the 1.8B (or 7B) shape with random weights and a tokenizer whose control tokens have the real
ids, and keeps it for later runs. hymt-batch and from_pretrained run in separate processes, so that their peak memory is
measured separately. The text is meaningless; the campaign shows that the shape loads, on which devices, how fast and
with what peak memory. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hymt_batch.demo import checkpoint, grammar, train
from hymt_batch.device_map import network_spec
from hymt_batch.model import shapes

CONTROL_IDS = {
    checkpoint.BOS: 120000,
    checkpoint.USER: 120006,
    checkpoint.ASSISTANT: 120007,
    checkpoint.EOS: 120020,
    checkpoint.PAD: 120002,
    checkpoint.SYSTEM_END: 120021,
    checkpoint.NO_GENERATION_PROMPT: 120026,
}
SCALE = 0.02

PLAIN = """
import sys, time
began = time.monotonic()
import torch
from transformers import AutoModelForCausalLM
imported = time.monotonic()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]), device_map="auto")
print("load_s", time.monotonic() - imported, {str(weight.device) for weight in model.parameters()})
ids = torch.arange(1000, 1032)[None]
with torch.inference_mode():  # reads every weight, which loading alone does not
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
"""


def config(scale: str) -> dict[str, Any]:
    shape = {"1.8b": shapes.SMALL, "7b": shapes.LARGE, "tiny": {**shapes.SMALL, "num_hidden_layers": 2}}[scale]
    ids = {"bos_token_id": 120000, "eos_token_id": 120020, "pad_token_id": 120002}
    return {
        **shape,
        **ids,
        "architectures": ["HunYuanDenseV1ForCausalLM"],
        "torch_dtype": "bfloat16",
        "transformers_version": "4.56.0",
        "use_cache": True,
        "attention_dropout": 0.0,
        "initializer_range": SCALE,
    }


def write_model(folder: Path, scale: str) -> None:
    """Write config, tokenizer and weights, with one tensor in memory at a time."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    settings = config(scale)
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    write_tokenizer(folder, settings["vocab_size"])
    tensors = [
        tensor
        for tensor in network_spec.from_config(settings).root.all_tensors()
        if tensor.stored and tensor.name != "lm_head.weight"
    ]
    header, end = {}, 0
    for tensor in tensors:
        start, end = end, end + tensor.num_bytes(2)
        header[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(train.SEED)
    with (folder / "model.safetensors.new").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            if len(tensor.shape) == 1:
                values = torch.ones(tensor.shape, dtype=torch.bfloat16)
            else:
                values = (torch.randn(tensor.shape, generator=generator) * SCALE).to(torch.bfloat16)
            file.write(values.view(torch.uint8).numpy().data)
    os.replace(folder / "model.safetensors.new", folder / "model.safetensors")


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write the demo's tokenizer, padded to the real vocabulary size, with control tokens at the real ids."""
    content = json.loads((checkpoint.MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = {text: token_id for text, token_id in content["model"]["vocab"].items() if text not in CONTROL_IDS}
    content["model"]["vocab"] = vocab | {f"<unused {n}>": n for n in range(len(vocab), 120000)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    names = {token_id: text for text, token_id in CONTROL_IDS.items()}
    content["added_tokens"] = [
        {"id": n, "content": names.get(n, f"<｜hy_place▁holder▁no▁{n}｜>"), **flags} for n in range(120000, vocab_size)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = json.loads((checkpoint.MODEL_DIR / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("added_tokens_decoder")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def measured(command: list[str], **settings: Any) -> tuple[float, float, str]:
    """Run a command and return its seconds, its peak memory in GiB and its output."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **settings)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise SystemExit(f"{command[:4]} exited with code {process.returncode}:\n{text}")
    return time.monotonic() - began, usage.ru_maxrss / 2**20, text


def sides(folder: Path, rows: int, dtype: str, tokens: int) -> Iterator[tuple[str, list[str]]]:
    with tempfile.TemporaryDirectory() as work_folder:
        source = Path(work_folder) / "in.txt"
        source.write_text("".join(f"{bulletin.en}\n" for bulletin in grammar.sample(1, rows)), encoding="utf-8")
        overrides = [
            f"source.path={source}",
            f"output_dir={work_folder}",
            f"model.path={folder}",
            f"model.dtype={dtype}",
            "name=full",
            "src_lang=en",
            "tgt_lang=fr",
            "device_map=cpu",
            f"decode.max_new_tokens={tokens}",
            "check.max_error_rate=1",
        ]
        yield "ours", [sys.executable, "-m", "jobs", "translate", *overrides]
        assert len((Path(work_folder) / "full/translated/in.txt").read_text(encoding="utf-8").splitlines()) == rows
    yield "plain", [sys.executable, "-c", PLAIN, str(folder), dtype]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=["1.8b", "7b", "tiny"], default="1.8b")
    parser.add_argument(
        "--folder", type=Path, default=None, help="folder for the model (default: build/full_size/SCALE)"
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24, help="maximum number of new tokens per row")
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path("build/full_size") / arguments.scale).resolve()
    if not (folder / "model.safetensors").is_file():
        write_model(folder, arguments.scale)
    figures: dict[str, Any] = {"scale": arguments.scale, "dtype": arguments.dtype, "rows": arguments.rows}
    figures["weights_gib"] = round((folder / "model.safetensors").stat().st_size / 2**30, 3)
    for side, command in sides(folder, arguments.rows, arguments.dtype, arguments.tokens):
        seconds, peak, text = measured(command)
        print(f"--- {side}\n{text}")
        figures[f"{side}_s"], figures[f"{side}_peak_gib"] = round(seconds, 1), round(peak, 2)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
