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

from hymt_batch import batch, executor, prompt, segment, signals, stderr_capture, stdin_job, streams
from hymt_batch.doctor import preflight
from hymt_batch.doctor.explain import explain_errors
from hymt_batch.errors import ExitCode, StoppedError
from hymt_batch.identity import (
    alias_identities,
    auto_keys,
    build_environment,
    build_identity,
    part_limits_of,
    stored_plan_version,
    with_generation_prompt,
)
from hymt_batch.launch.watchdog import Watchdog
from hymt_batch.model import prepare
from hymt_batch.part_tracker import PartTracker
from hymt_batch.progress import Progress, Reporter, escape_line, render_summary
from hymt_batch.records import ERROR_STATUSES, PLAN_VERSION, Document, Input, Prompt, Rejection, Shard
from hymt_batch.source import stream
from hymt_batch.write import formats, published_file
from hymt_batch.write.output import Output, Summary

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

T = TypeVar("T")

log = logging.getLogger("hymt_batch.jobs.translate")  # under this name also as `python -m jobs.translate`


def translate(
    job: TranslateJob,
    reporter: Reporter,
    prepare_model: Callable[..., Any] = prepare.prepare_model,
    decode_batch: Callable[..., Any] | None = None,
    worker_command: Sequence[str] = executor.WORKER_COMMAND,
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
    stop.flush_output = stderr_capture.flush
    folder = Path(job.output_dir) / str(job.name)
    spool = stream.Spool(folder, replace=job.overwrite or job.on_input_change.value == "redo")
    with stop.remove_on_exit(spool.staging_folder):
        return _translate(job, reporter, prepare_model, decode_batch, worker_command, stop, folder, spool)


def _translate(
    job: TranslateJob,
    reporter: Reporter,
    prepare_model: Callable[..., Any],
    decode_batch: Callable[..., Any] | None,
    worker_command: Sequence[str],
    stop: signals.StopRequest,
    folder: Path,
    spool: stream.Spool,
) -> Summary:
    found = stream.find_inputs(job.source, spool, job.write.format.value)
    plan = PLAN_VERSION if job.overwrite else stored_plan_version(folder)
    heads = stream.PreambleCache(job.source, job.write.added_fields)
    inputs = stream.apply_limit(found, job.source, heads, plan)
    for one in inputs:
        rows = partial(_read_documents, one, job, inputs, heads, plan)
        formats.check(one, published_file.out_format(one, job.write), heads(one), job.write, rows)
    if plan > 1:
        stream.check_escapes(inputs, job.source, heads)
    for finding in preflight.run_quick(job):
        log.warning("%s", preflight.log_line(finding))
    words = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    if job.model.path == "demo:model" and words.tgt_lang not in ("fr", "de", "zh"):
        log.warning("the demo model knows weather in fr, de and zh only; tgt_lang=%s gives nonsense", words.tgt_lang)
    model = prepare_model(job.model, job.device_map, job.launch.num_threads)
    limits = batch.resolve_part_limits(job.batch, model.num_parameters, model.on_gpu)
    # identity first: a wrong folder costs nothing
    with Output.open(
        folder,
        identity=build_identity(job, model.identity, words, limits),
        environment={**model.environment, **build_environment(job)},
        inputs=inputs,
        config=job.write,
        read=lambda one: _read_documents(
            one, job, inputs, heads, limits.plan
        ),  # as the folder's job has it, once it is open
        preamble=heads,
        overwrite=job.overwrite,
        on_mismatch=job.on_mismatch.value,
        on_input_change=job.on_input_change.value,
        auto_keys=auto_keys(job),
        aliases=alias_identities(job, model.identity, words, model.num_parameters),
        lease_ttl_s=job.launch.lease_ttl_s,
        lease_beat_s=job.launch.lease_beat_s,
    ) as output:
        spool.link_into(output.folder)
        if output.is_complete:
            log.info("already complete: nothing to do")
            return output.finalize()
        # a job that goes on keeps the plan, and what `auto` came to, with which it was created
        limits = part_limits_of(output.identity)
        job = with_generation_prompt(job, output.identity["prompt"]["add_generation_prompt"])
        stop.on_exit(output.close)
        reporter.log_to(output.folder / "logs")
        log.info("arguments=%s", escape_line(shlex.join(sys.argv[1:]), 4000))
        tokenizer = model.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
        prompt.check_template(tokenizer, words)
        shards = stream.cut_shards(
            inputs,
            job.source,
            shard_rows=limits.shard_rows,
            shard_bytes=limits.shard_bytes,
            get_record=output.shard_record,
            reserved=job.write.added_fields,
            plan_version=limits.plan,
            preambles=heads,
        )
        with Progress(reporter, job.launch.log_every_s, stream.total_units(inputs, job.source)) as progress:
            desk = PartTracker(job, output, reporter, progress)
            hands_of = executor.open_executor(job, model, tokenizer, desk, stop, decode_batch, worker_command)
            with hands_of as hands, contextlib.ExitStack() as ends:

                def leave_if_asked(where: str) -> None:
                    if stop.requested:
                        desk.commit(hands.drain())  # what workers are at
                        raise StoppedError(
                            f"{stop.signal_name}: stopped {where}; run the same command again to continue"
                        )

                def waiting() -> None:
                    leave_if_asked("while rows were prepared")
                    progress.refresh()

                def step() -> None:
                    reader.reset()
                    if job.launch.prefetch_shards == 0:
                        waiting()
                    elif stop.requested:  # the thread's own end; the job leaves where it waits for the thread
                        raise StoppedError(
                            f"{stop.signal_name}: stopped while rows were prepared; run again to continue"
                        )

                def unread(why: str) -> None:
                    output.close()
                    stop.exit_now(
                        f"{why}; run the same command again to continue, with a larger one if the store is slow"
                    )

                reader = Watchdog(job.launch.hang_s, unread, "reading, cutting or encoding rows")
                stop.allow_drain(job.launch.grace_s, output.close)
                ready = map(
                    partial(prepare_shard, job, tokenizer, words, model.max_context, limits.plan, step),
                    reset_before_each(shards, reader.reset),
                )
                ends.enter_context(reader)
                for shard, prompts, refused in stream.prefetch(
                    ready, job.launch.prefetch_shards, waiting, reader.pause
                ):
                    leave_if_asked("between two shards")
                    if isinstance(shard, stream.SkippedShard):
                        progress.add_kept_rows(shard.record.num_rows, shard.record.end - shard.record.start)
                        output.finish_skipped_shard(shard.input, shard.record)
                        continue
                    progress.add_shard(
                        shard.end - shard.start,
                        sum(p.num_source_tokens for p in prompts),
                        rows=len({p.segment.document_index for p in prompts}),
                        segments=len(prompts),
                        last=shard.last,
                    )
                    for part in batch.plan_parts(shard.documents, prompts, limits):
                        if output.has(shard, part):
                            progress.add_kept_rows(
                                len(part.document_indices), source_tokens=desk.num_source_tokens(part)
                            )
                            continue
                        leave_if_asked("after a finished part")
                        progress.begin_part(*batch.longest_row(part))
                        with (
                            explain_errors("translating the first part")
                            if desk.nothing_committed
                            else contextlib.nullcontext()
                        ):
                            desk.commit(hands.submit(desk.open_task(shard, part, refused)))
                    desk.mark_submitted(shard)
                desk.commit(hands.drain())
                if desk.has_open_parts:
                    leave_if_asked("after the running parts")
        return output.finalize()


def _read_documents(
    input: Input, job: TranslateJob, inputs: Sequence[Input], heads: stream.PreambleCache, plan: int
) -> Iterator[Document]:
    """A fresh pass over an input's rows, with their fields."""
    return (
        document
        for document, _ in stream.read_full_documents(input, job.source, inputs, job.write.added_fields, plan, heads)
    )


def prepare_shard(
    job: TranslateJob,
    tokenizer: Any,
    template: prompt.PromptTemplate,
    max_context: int,
    plan: int,
    step: Callable[[], None],
    shard: Shard | stream.SkippedShard,
) -> tuple[Shard | stream.SkippedShard, list[Prompt], dict[int, Rejection]]:
    """A shard with its prompts, made in the reader's thread beside the decoding, and what is not sent to the model.

    Args:
        step: Called again and again, within a long row too; what it raises ends the preparation.
    """
    if isinstance(shard, stream.SkippedShard):
        return shard, [], {}
    segments, too_long = segment.split(
        shard.documents,
        tokenizer.count,
        job.segment,
        plan,
        find_token_starts=getattr(tokenizer, "token_starts", None),
        check_stop=step,
    )
    prompts, leaking = prompt.render(segments, shard.documents, tokenizer, template, max_context, plan, check_stop=step)
    return shard, prompts, {**too_long, **leaking}


def reset_before_each(shards: Iterable[T], reset: Callable[[], None]) -> Iterator[T]:
    """The same shards; `beat` is called as the next one is begun."""
    reset()
    for shard in shards:
        yield shard
        reset()


def run(job: TranslateJob, translate: Callable[[TranslateJob, Reporter], Summary] = translate) -> ExitCode:
    """Run the job and tell how it went.

    Returns:
        The exit code: complete, with too many error rows, or with warnings under strict=true.
    """
    from_stdin = stream.is_stdin(job.source.path)
    unnamed = from_stdin and job.name is None
    wanted, stop = Path(job.output_dir), signals.install()
    if from_stdin:
        streams.require_stdout()
    with Reporter(job.launch.progress.value) as telling, stderr_capture.capture(), contextlib.ExitStack() as ends:
        if unnamed:
            place = ends.enter_context(stop.remove_on_exit(stdin_job.create_temporary_folder()))
            job = replace(job, name="stdin", output_dir=str(place))
        done = translate(job, telling)
        error_rate = sum(done.counts.get(status, 0) for status in ERROR_STATUSES) / max(1, done.rows)
        told = render_summary(done, telling.sample_pairs)
        telling.print_result(
            render_temporary_result(told, done) if unnamed else f"{told}\n\n{next_command(job, done)}",
            to_stderr=from_stdin,
        )
        if from_stdin:
            stdin_job.write_to_stdout(
                done.folder, done.outputs, stop, wanted, Path(job.output_dir) if unnamed else None
            )
        if error_rate > job.check.max_error_rate:
            log.error(
                "%.2f %% of the rows have no translation, more than check.max_error_rate=%g: see %s",
                100 * error_rate,
                job.check.max_error_rate,
                "above" if unnamed else done.folder / "errors",
            )
            return ExitCode.TOO_MANY_ERRORS
    return ExitCode.WARNINGS if job.strict and telling.num_warnings else ExitCode.COMPLETE


def next_command(job: TranslateJob, summary: Summary) -> str:
    """The command to try next."""
    name = summary.folder.relative_to(job.output_dir)
    place = "" if job.output_dir == "outputs" else f" output_dir={shlex.quote(job.output_dir)}"
    lines = [f"Next: hymt-batch verify name={shlex.quote(str(name))}{place}"]
    if job.source.path == "demo:bulletins":
        lines.append("Your own file, with the real model: hymt-batch translate source.path=FILE tgt_lang=fr")
    return "\n".join(lines)


def render_temporary_result(text: str, summary: Summary) -> str:
    """The result of a job whose folder goes away: its first errors, not where they were."""
    first = []
    for path in summary.errors:
        with path.open(encoding="utf-8") as file:
            first += [f"  {escape_line(line.rstrip(), 300)}" for line in islice(file, 3)]
    first += ["  add name=NAME to keep the errors and to be able to continue"]
    text = text.replace(str(summary.folder / "translated"), "standard output")
    return text.replace(f"  listed in {summary.folder / 'errors'}", "\n".join(first))


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("translate")
