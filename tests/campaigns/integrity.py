"""Compares hymt-batch with plain from_pretrained on twelve corruptions of a model folder.

hymt-batch and plain loading use separate processes. "plain" is AutoModelForCausalLM and AutoTokenizer.from_pretrained
with device_map="auto" and eight new tokens; "loads" means that it ended without an error. Ends with one JSON line.
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
from tests.fakes.corruptions import ALL

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
    process = subprocess.run([sys.executable, "-c", PLAIN, str(folder)], capture_output=True, text=True)
    if process.returncode == 0 and process.stdout.strip().endswith("loads"):
        return "loads"
    last_line = [line for line in process.stderr.strip().splitlines() if line.strip()][-1:] or ["?"]
    return f"rejects: {last_line[0][:90]}"


def ours(folder: Path, job_folder: Path, pin: str | None) -> tuple[str, bool]:
    source = job_folder / "in.txt"
    source.write_text("It is raining in Lyon.\n", encoding="utf-8")
    overrides = [
        f"source.path={source}",
        f"model.path={folder}",
        f"output_dir={job_folder}",
        "name=out",
        "model=demo",
    ]
    overrides += ["tgt_lang=fr", "device_map=cpu", *([f"model.sha256={pin}"] if pin else [])]
    process = subprocess.run([sys.executable, "-m", "jobs", "translate", *overrides], capture_output=True, text=True)
    wrote = bool(list((job_folder / "out").glob("translated/*")))
    last_line = process.stderr.strip().splitlines()[-1:] or ["?"]
    return (
        f"exit {process.returncode}: {last_line[0].removeprefix('hymt-batch: ').replace(str(folder), 'FOLDER')}",
        wrote,
    )


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    demo, _ = files.resolve("demo:model", "main", download=False)
    whole_sha256 = hashes.compute(demo, ["model.safetensors"])["model.safetensors"]
    num_rejected = num_plain_rejected = 0
    for corruption in ALL:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            folder = Path(shutil.copytree(demo, work / "model"))
            corruption.damage(folder)
            our_result, wrote = ours(folder, work, whole_sha256 if corruption.pinned else None)
            plain_result = plain(folder)
        rejected = our_result.startswith("exit 6") and f"[{corruption.id}:" in our_result and not wrote
        num_rejected += rejected
        num_plain_rejected += plain_result != "loads"
        print(
            f"{corruption.name}\n  ours   {'refused' if rejected else 'NOT REFUSED'}: {our_result}\n"
            f"  plain  {plain_result}"
        )
    figures = {"corruptions": len(ALL), "refused": num_rejected, "plain_refused": num_plain_rejected}
    print(json.dumps(figures))
    return 0 if num_rejected == len(ALL) else 1


if __name__ == "__main__":
    sys.exit(main())
