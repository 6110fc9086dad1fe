"""What the job costs around the model: reader, planner, tokenizer, checks, writer.

Two figures: rows a second with a model that costs nothing, and the share of a job's time that is not decoding with the
demo model. Imports and the loading of weights are not counted in the second. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hymt_batch import config
from hymt_batch.decode import generate
from hymt_batch.demo import grammar
from hymt_batch.model import network
from hymt_batch.progress import Telling
from jobs import translate


def timed(source: Path, name: str, prepare: Callable[..., Any], decode: Callable[..., Any]) -> dict[str, float]:
    """Run one job; seconds from the loaded model to the end, and of these in the decoder."""
    spent = {"decode_s": 0.0, "began": 0.0}

    def measured(*arguments: Any) -> Any:
        began = time.perf_counter()
        spent["began"] = spent["began"] or began
        rows = decode(*arguments)
        spent["decode_s"] += time.perf_counter() - began
        return rows

    overrides = [f"source.path={source}", "src_lang=en", "tgt_lang=fr", "model=demo", f"name={name}"]
    job = config.load("translate", [*overrides, f"output_dir={source.parent}", "batch.max_rows=64"])
    began = time.perf_counter()
    with Telling("off") as telling:
        done = translate.translate(job, telling, prepare, measured)
    ended = time.perf_counter()
    return {"rows": done.rows, "whole_s": ended - began, "job_s": ended - spent["began"], "decode_s": spent["decode_s"]}


ANSWER = "De la pluie est attendue à Lyon dimanche soir, et les températures baisseront à 7 degrés."


def free(hymt: network.Hymt, prompts: Any, *_: Any) -> list[generate.Generated]:
    """A model that costs nothing: it answers with one text of the usual length."""
    ids = hymt.tokenizer.encode([ANSWER])[0]
    return [generate.Generated(ids, "stop")] * len(prompts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows with the model that costs nothing")
    parser.add_argument("--demo-rows", type=int, default=400, help="rows with the demo model")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    speeds, shares = [], []
    with tempfile.TemporaryDirectory() as folder:
        bulletins = [bulletin.en for bulletin in grammar.sample(3, arguments.demo_rows)]
        small, large = Path(folder) / "small.txt", Path(folder) / "large.txt"
        small.write_text("".join(f"{text}\n" for text in bulletins), encoding="utf-8")
        with large.open("w", encoding="utf-8") as file:
            file.writelines(f"{row} {bulletins[row % len(bulletins)]}\n" for row in range(arguments.rows))
        timed(small, "warm-up", network.prepare, free)  # imports are not the job's
        for round_ in range(arguments.rounds):
            bare = timed(large, f"bare{round_}", network.prepare, free)
            real = timed(small, f"demo{round_}", network.prepare, generate.decode_batch)
            speeds.append(bare["rows"] / (bare["whole_s"] - bare["decode_s"]))
            shares.append(1 - real["decode_s"] / real["job_s"])
    print(
        json.dumps(
            {
                "rows": arguments.rows,
                "overhead_rows_per_s": round(statistics.median(speeds)),
                "overhead_rows_per_s_all": [round(speed) for speed in speeds],
                "demo_rows": arguments.demo_rows,
                "demo_overhead_share": round(statistics.median(shares), 4),
                "demo_overhead_share_all": [round(share, 4) for share in shares],
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
