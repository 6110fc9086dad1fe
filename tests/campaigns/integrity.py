"""Twelve corruptions of a model's folder: what hymt-batch does with each, beside plain from_pretrained.

Each side is a process of its own. Plain means AutoModelForCausalLM and AutoTokenizer.from_pretrained with
device_map="auto" and eight new tokens; "loads" means that it ended without an error. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hymt_batch.model import files, hashes
from tests.corruptions import ALL

PLAIN = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging
logging.set_verbosity_error()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
turn = [{"role": "user", "content": "It is raining."}]
rows = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True, return_tensors="pt")
out = model.generate(**rows, max_new_tokens=8, do_sample=False)
print("loads")
"""


def plain(folder: Path) -> str:
    ran = subprocess.run([sys.executable, "-c", PLAIN, str(folder)], capture_output=True, text=True)
    if ran.returncode == 0 and ran.stdout.strip().endswith("loads"):
        return "loads"
    last = [line for line in ran.stderr.strip().splitlines() if line.strip()][-1:] or ["?"]
    return f"refuses: {last[0][:90]}"


def ours(folder: Path, place: Path, pin: str | None) -> tuple[str, bool]:
    source = place / "in.txt"
    source.write_text("It is raining in Lyon.\n", encoding="utf-8")
    words = [f"source.path={source}", f"model.path={folder}", f"output_dir={place}", "name=out", "model=demo"]
    words += ["tgt_lang=fr", "device_map=cpu", *([f"model.sha256={pin}"] if pin else [])]
    ran = subprocess.run([sys.executable, "-m", "jobs", "translate", *words], capture_output=True, text=True)
    wrote = bool(list((place / "out").glob("translated/*")))
    last = ran.stderr.strip().splitlines()[-1:] or ["?"]
    return f"exit {ran.returncode}: {last[0].removeprefix('hymt-batch: ').replace(str(folder), 'FOLDER')}", wrote


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    demo, _ = files.resolve("demo:model", "main", download=False)
    whole = hashes.compute(demo, ["model.safetensors"])["model.safetensors"]
    refused = plain_refused = 0
    for corruption in ALL:
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            folder = Path(shutil.copytree(demo, place / "model"))
            corruption.damage(folder)
            said, wrote = ours(folder, place, whole if corruption.pinned else None)
            theirs = plain(folder)
        right = said.startswith("exit 6") and f"[{corruption.id}:" in said and not wrote
        refused += right
        plain_refused += theirs != "loads"
        print(f"{corruption.name}\n  ours   {'refused' if right else 'NOT REFUSED'}: {said}\n  plain  {theirs}")
    figures = {"corruptions": len(ALL), "refused": refused, "plain_refused": plain_refused}
    print(json.dumps(figures))
    return 0 if refused == len(ALL) else 1


if __name__ == "__main__":
    sys.exit(main())
