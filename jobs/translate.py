"""Translate a corpus; run the same command again to continue a stopped job.

The whole job, in the order of the flow: source -> segment -> prompt -> batch -> decode -> check -> write.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hymt_batch import batch, crew, foreign_output, piped, prompt, segment, signals, streams
from hymt_batch.desk import Desk
from hymt_batch.doctor import examine
from hymt_batch.doctor.explain import explaining
from hymt_batch.errors import ExitCode, StoppedError
from hymt_batch.identity import (
    aliases,
    boundaries_of,
    environment,
    identity,
    own_keys,
    stored_plan,
    with_generation_prompt,
)
from hymt_batch.launch.watch import Watch
from hymt_batch.model import network
from hymt_batch.progress import Progress, Telling, escaped, result
from hymt_batch.records import ERROR_STATUSES, PLAN, Document, Input, Prompt, Refusal, Shard
from hymt_batch.source import stream
from hymt_batch.write import final, formats
from hymt_batch.write.output import Output, Summary

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

T = TypeVar("T")

log = logging.getLogger("hymt_batch.jobs.translate")  # under this name also as `python -m jobs.translate`


def translate(
    job: TranslateJob,
    telling: Telling,
    prepare: Callable[..., Any] = network.prepare,
    decode_batch: Callable[..., Any] | None = None,
    worker: Sequence[str] = crew.COMMAND,
) -> Summary:
    """Run one job to its end, or to the next stop request.

    Args:
        job: All settings.
        telling: Where progress goes, and what was told.
        prepare: Verifies and places a model without reading weights; tests put a small real thing here.
        decode_batch: Decodes one batch instead of the engine; likewise.
        worker: Starts a worker process; likewise.

    Raises:
        HymtError: Each with its exit code; whatever was committed is kept.
    """
    stop = signals.install()
    stop.settle = foreign_output.settle
    folder = Path(job.output_dir) / str(job.name)
    spool = stream.Spool(folder, replace=job.overwrite or job.on_input_change.value == "redo")
    with stop.removing(spool.aside):
        return _translate(job, telling, prepare, decode_batch, worker, stop, folder, spool)


def _translate(
    job: TranslateJob,
    telling: Telling,
    prepare: Callable[..., Any],
    decode_batch: Callable[..., Any] | None,
    worker: Sequence[str],
    stop: signals.Stop,
    folder: Path,
    spool: stream.Spool,
) -> Summary:
    found = stream.find(job.source, spool, job.write.format.value)
    plan = PLAN if job.overwrite else stored_plan(folder)
    heads = stream.Heads(job.source, job.write.added_fields)
    inputs = stream.limited(found, job.source, heads, plan)
    for one in inputs:
        rows = partial(_rows, one, job, inputs, heads, plan)
        formats.check(one, final.out_format(one, job.write), heads(one), job.write, rows)
    if plan > 1:
        stream.escapes_conflict(inputs, job.source, heads)
    for finding in examine.cheap(job):
        log.warning("%s", examine.told(finding))
    words = prompt.wording(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    if job.model.path == "demo:model" and words.tgt_lang not in ("fr", "de", "zh"):
        log.warning("the demo model knows weather in fr, de and zh only; tgt_lang=%s gives nonsense", words.tgt_lang)
    model = prepare(job.model, job.device_map, job.launch.num_threads)
    limits = batch.boundaries(job.batch, model.num_parameters, model.on_gpu)
    # identity first: a wrong folder costs nothing
    with Output.open(
        folder,
        identity=identity(job, model.identity, words, limits),
        environment={**model.environment, **environment(job)},
        inputs=inputs,
        config=job.write,
        read=lambda one: _rows(one, job, inputs, heads, limits.plan),  # as the folder's job has it, once it is open
        preamble=heads,
        overwrite=job.overwrite,
        on_mismatch=job.on_mismatch.value,
        on_input_change=job.on_input_change.value,
        own=own_keys(job),
        aliases=aliases(job, model.identity, words, model.num_parameters),
        lease_ttl_s=job.launch.lease_ttl_s,
        lease_beat_s=job.launch.lease_beat_s,
    ) as output:
        spool.settle(output.folder)
        if output.finished:
            log.info("already complete: nothing to do")
            return output.finalize()
        # a job that goes on keeps the plan, and what `auto` came to, with which it was created
        limits = boundaries_of(output.identity)
        job = with_generation_prompt(job, output.identity["prompt"]["add_generation_prompt"])
        stop.holding(output.close)
        telling.log_to(output.folder / "logs")
        log.info("arguments=%s", escaped(shlex.join(sys.argv[1:]), 4000))
        tokenizer = model.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
        prompt.check(tokenizer, words)
        shards = stream.shards(
            inputs,
            job.source,
            shard_rows=limits.shard_rows,
            shard_bytes=limits.shard_bytes,
            done=output.record,
            reserved=job.write.added_fields,
            plan=limits.plan,
            heads=heads,
        )
        with Progress(telling, job.launch.log_every_s, stream.total_units(inputs, job.source)) as progress:
            desk = Desk(job, output, telling, progress)
            hands_of = crew.hire(job, model, tokenizer, desk, stop, decode_batch, worker)
            with hands_of as hands, contextlib.ExitStack() as ends:

                def leave_if_asked(where: str) -> None:
                    if stop.requested:
                        desk.settle(hands.drain())  # what workers are at
                        raise StoppedError(f"{stop.name}: stopped {where}; run the same command again to continue")

                def waiting() -> None:
                    leave_if_asked("while rows were prepared")
                    progress.waiting()

                def step() -> None:
                    reader.beat()
                    if job.launch.prefetch_shards == 0:
                        waiting()
                    elif stop.requested:  # the thread's own end; the job leaves where it waits for the thread
                        raise StoppedError(f"{stop.name}: stopped while rows were prepared; run again to continue")

                def unread(why: str) -> None:
                    output.close()
                    stop.leave(f"{why}; run the same command again to continue, with a larger one if the store is slow")

                reader = Watch(job.launch.hang_s, unread, "reading, cutting or encoding rows")
                stop.working(job.launch.grace_s, output.close)
                ready = map(
                    partial(prepared, job, tokenizer, words, model.max_context, limits.plan, step),
                    begun(shards, reader.beat),
                )
                ends.enter_context(reader)
                for shard, prompts, refused in stream.prefetch(ready, job.launch.prefetch_shards, waiting, reader.rest):
                    leave_if_asked("between two shards")
                    if isinstance(shard, stream.SkippedShard):
                        progress.kept(shard.record.num_rows, shard.record.end - shard.record.start)
                        output.finish_record(shard.input, shard.record)
                        continue
                    progress.shard(
                        shard.end - shard.start,
                        sum(p.num_source_tokens for p in prompts),
                        rows=len({p.segment.document for p in prompts}),
                        segments=len(prompts),
                        last=shard.last,
                    )
                    for part in batch.plan(shard.documents, prompts, limits):
                        if output.has(shard, part):
                            progress.kept(len(part.documents), source_tokens=desk.tokens(part))
                            continue
                        leave_if_asked("after a finished part")
                        progress.long_row(*batch.longest_row(part))
                        with explaining("translating the first part") if desk.empty else contextlib.nullcontext():
                            desk.settle(hands.give(desk.task(shard, part, refused)))
                    desk.all_given(shard)
                desk.settle(hands.drain())
                if desk.busy:
                    leave_if_asked("after the running parts")
        return output.finalize()


def _rows(
    input: Input, job: TranslateJob, inputs: Sequence[Input], heads: stream.Heads, plan: int
) -> Iterator[Document]:
    """A fresh pass over an input's rows, with their fields."""
    return (document for document, _ in stream.full(input, job.source, inputs, job.write.added_fields, plan, heads))


def prepared(
    job: TranslateJob,
    tokenizer: Any,
    words: prompt.Wording,
    max_context: int,
    plan: int,
    step: Callable[[], None],
    shard: Shard | stream.SkippedShard,
) -> tuple[Shard | stream.SkippedShard, list[Prompt], dict[int, Refusal]]:
    """A shard with its prompts, made in the reader's thread beside the decoding, and what is not sent to the model.

    Args:
        step: Called again and again, within a long row too; what it raises ends the preparation.
    """
    if isinstance(shard, stream.SkippedShard):
        return shard, [], {}
    segments, too_long = segment.split(
        shard.documents, tokenizer.count, job.segment, plan, starts=getattr(tokenizer, "starts", None), step=step
    )
    prompts, leaking = prompt.render(segments, shard.documents, tokenizer, words, max_context, plan, step=step)
    return shard, prompts, {**too_long, **leaking}


def begun(shards: Iterable[T], beat: Callable[[], None]) -> Iterator[T]:
    """The same shards; `beat` is called as the next one is begun."""
    beat()
    for shard in shards:
        yield shard
        beat()


def run(job: TranslateJob, translate: Callable[[TranslateJob, Telling], Summary] = translate) -> ExitCode:
    """Run the job and tell how it went.

    Returns:
        The exit code: complete, with too many error rows, or with warnings under strict=true.
    """
    from_stdin = stream.is_stdin(job.source.path)
    unnamed = from_stdin and job.name is None
    wanted, stop = Path(job.output_dir), signals.install()
    if from_stdin:
        streams.need_output()
    with Telling(job.launch.progress.value) as telling, foreign_output.caught(), contextlib.ExitStack() as ends:
        if unnamed:
            place = ends.enter_context(stop.removing(piped.temporary()))
            job = replace(job, name="stdin", output_dir=str(place))
        done = translate(job, telling)
        error_rate = sum(done.counts.get(status, 0) for status in ERROR_STATUSES) / max(1, done.rows)
        told = result(done, telling.pairs)
        telling.say(unkept(told, done) if unnamed else f"{told}\n\n{advice(job, done)}", to_stderr=from_stdin)
        if from_stdin:
            piped.copy(done.folder, done.outputs, stop, wanted, Path(job.output_dir) if unnamed else None)
        if error_rate > job.check.max_error_rate:
            log.error(
                "%.2f %% of the rows have no translation, more than check.max_error_rate=%g: see %s",
                100 * error_rate,
                job.check.max_error_rate,
                "above" if unnamed else done.folder / "errors",
            )
            return ExitCode.TOO_MANY_ERRORS
    return ExitCode.WARNINGS if job.strict and telling.num_warnings else ExitCode.COMPLETE


def advice(job: TranslateJob, done: Summary) -> str:
    """The command to try next."""
    name = done.folder.relative_to(job.output_dir)
    place = "" if job.output_dir == "outputs" else f" output_dir={shlex.quote(job.output_dir)}"
    lines = [f"Next: hymt-batch verify name={shlex.quote(str(name))}{place}"]
    if job.source.path == "demo:bulletins":
        lines.append("Your own file, with the real model: hymt-batch translate source.path=FILE tgt_lang=fr")
    return "\n".join(lines)


def unkept(told: str, done: Summary) -> str:
    """The result of a job whose folder goes away: its first errors, not where they were."""
    first = []
    for path in done.errors:
        with path.open(encoding="utf-8") as file:
            first += [f"  {escaped(line.rstrip(), 300)}" for line in islice(file, 3)]
    first += ["  add name=NAME to keep the errors and to be able to continue"]
    told = told.replace(str(done.folder / "translated"), "standard output")
    return told.replace(f"  listed in {done.folder / 'errors'}", "\n".join(first))


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("translate")
