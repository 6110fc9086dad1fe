"""The job of comparison.py in datatrove, with datatrove's inference checkpoints. Needs an interpreter with datatrove.

`python datatrove_job.py SOURCE_FOLDER OUT_FOLDER LOG PAUSE_S`. Only the engine is a stub, which upper-cases.
Source: datatrove 0.10.1, pipeline/inference.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

RECORDS_PER_CHUNK = 16
AT_ONCE = 4


def main() -> None:
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    source, out, log, pause_s = sys.argv[1:]
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    class Stub:
        """Stands in for the runner's `InferenceServer`."""

        async def __aenter__(self) -> Stub:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def make_request(self, payload: dict[str, Any]) -> dict[str, Any]:
            text = payload["messages"][0]["content"]
            os.write(fd, b"1\n")
            await asyncio.sleep(float(pause_s) * AT_ONCE)
            return {"choices": [{"message": {"content": text.upper()}, "finish_reason": "stop"}], "usage": {}}

    async def rollout(document: Any, generate: Any) -> Any:
        answer = await generate({"messages": [{"role": "user", "content": document.text}]})
        return {"text": answer.text}

    InferenceRunner._init_server = lambda self, rank: Stub()
    config = InferenceConfig(
        server_type="dummy", model_name_or_path="stub", rollouts_per_document=1, max_concurrent_generations=AT_ONCE
    )
    writer = JsonlWriter(f"{out}/rows", output_filename="${rank}_chunk_${chunk_index}.jsonl", compression=None)
    runner = InferenceRunner(
        rollout, config, writer, checkpoints_local_dir=f"{out}/checkpoints", records_per_chunk=RECORDS_PER_CHUNK
    )
    pipeline = [JsonlReader(source, text_key="text", id_key="id"), runner]
    LocalPipelineExecutor(pipeline=pipeline, logging_dir=f"{out}/logs", tasks=1, workers=1).run()


if __name__ == "__main__":
    main()
