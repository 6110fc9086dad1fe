"""Translate a corpus; run the same command again to continue a stopped job.

The whole job, in pipeline order: source -> segment -> prompt -> batch -> decode -> check -> write.
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

from hymt_batch import batch, prompt, segment, signals, streams
from hymt_batch.doctor import preflight
from hymt_batch.doctor.explain import explain_errors
from hymt_batch.errors import ExitCode, StoppedError
from hymt_batch.formats import writer
from hymt_batch.model import prepare
from hymt_batch.records import ERROR_STATUSES, PLAN_VERSION, Document, Input, Prompt, Rejection, Shard
from hymt_batch.run import executor, stderr_capture, stdin_job
from hymt_batch.run.identity import (
    alias_identities,
    auto_keys,
    build_environment,
    build_identity,
    part_limits_of,
    stored_plan_version,
    with_generation_prompt,
)
from hymt_batch.run.monitor import Progress
from hymt_batch.run.part_tracker import PartTracker
from hymt_batch.run.reporter import Reporter, render_summary
from hymt_batch.run.watchdog import Watchdog
from hymt_batch.sanitize import escape_line
from hymt_batch.source import stream
from hymt_batch.write import published_file
from hymt_batch.write.output import Output, Summary

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

T = TypeVar("T")

log = logging.getLogger("hymt_batch.jobs.translate")  # the same name when run as `python -m jobs.translate`


def translate(
    job: TranslateJob,
    reporter: Reporter,
    prepare_model: Callable[..., Any] = prepare.prepare_model,
    worker_command: Sequence[str] = executor.WORKER_COMMAND,
) -> Summary:
    """Run one job until it is complete or a stop is requested.

    Args:
        job: All settings.
        reporter: Receives progress and warnings.
        prepare_model: Verifies and places a model without reading its weights; tests pass a small real model.
        worker_command: Command that starts a worker process; tests pass another.

    Raises:
        HymtError: The job cannot run or was stopped; everything committed is kept.
    """
    stop = signals.install()
    stop.flush_output = stderr_capture.flush
    folder = Path(job.output_dir) / str(job.name)
    spool = stream.Spool(folder, replace=job.overwrite or job.on_input_change.value == "redo")
    with stop.remove_on_exit(spool.staging_folder):
        return _translate(job, reporter, prepare_model, worker_command, stop, folder, spool)


def _translate(
    job: TranslateJob,
    reporter: Reporter,
    prepare_model: Callable[..., Any],
    worker_command: Sequence[str],
    stop: signals.StopRequest,
    folder: Path,
    spool: stream.Spool,
) -> Summary:
    all_inputs = stream.find_inputs(job.source, spool, job.write.format.value)
    plan_version = PLAN_VERSION if job.overwrite else stored_plan_version(folder)
    preambles = stream.PreambleCache(job.source, job.write.added_fields)
    inputs = stream.apply_limit(all_inputs, job.source, preambles, plan_version)
    for input_file in inputs:
        rows = partial(_read_documents, input_file, job, inputs, preambles, plan_version)
        writer.check(
            input_file, published_file.out_format(input_file, job.write), preambles(input_file), job.write, rows
        )
    if plan_version > 1:
        stream.check_first_rows(inputs, job.source, preambles)
    for finding in preflight.run_quick(job):
        log.warning("%s", finding.problem.text)
    template = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    if job.model.path == "demo:model" and template.tgt_lang not in ("fr", "de", "zh"):
        log.warning(
            "the demo model translates weather reports to fr, de and zh only; tgt_lang=%s gives meaningless output",
            template.tgt_lang,
        )
    model = prepare_model(job.model, job.device_map, job.launch.num_threads)
    limits = batch.resolve_part_limits(job.batch, model.num_parameters, model.on_gpu)
    # before the weights are loaded: a folder of another job is refused at no cost
    with Output.open(
        folder,
        identity=build_identity(job, model.identity, template, limits),
        environment={**model.environment, **build_environment(job)},
        inputs=inputs,
        config=job.write,
        read=lambda input_file: _read_documents(
            input_file, job, inputs, preambles, limits.plan
        ),  # when this is called, `limits` is already that of the folder's job
        preamble=preambles,
        overwrite=job.overwrite,
        on_mismatch=job.on_mismatch.value,
        on_input_change=job.on_input_change.value,
        auto_keys=auto_keys(job),
        aliases=alias_identities(job, model.identity, template, model.num_parameters),
        lease_ttl_s=job.launch.lease_ttl_s,
        lease_beat_s=job.launch.lease_beat_s,
    ) as output:
        spool.link_into(output.folder)
        if output.is_complete:
            log.info("already complete: nothing to do")
            return output.finalize()
        # a continued job keeps the plan version and the resolved `auto` values that it was created with
        limits = part_limits_of(output.identity)
        job = with_generation_prompt(job, output.identity["prompt"]["add_generation_prompt"])
        stop.on_exit(output.close)
        reporter.log_to(output.folder / "logs")
        log.info("arguments=%s", escape_line(shlex.join(sys.argv[1:]), 4000))
        tokenizer = model.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
        prompt.check_template(tokenizer, template)
        shards = stream.cut_shards(
            inputs,
            job.source,
            shard_rows=limits.shard_rows,
            shard_bytes=limits.shard_bytes,
            get_record=output.shard_record,
            reserved=job.write.added_fields,
            plan_version=limits.plan,
            preambles=preambles,
        )
        with Progress(reporter, job.launch.log_every_s, stream.total_units(inputs, job.source)) as progress:
            tracker = PartTracker(job, output, reporter, progress)
            opening = executor.open_executor(job, model, tokenizer, tracker, stop, worker_command)
            with opening as pool, contextlib.ExitStack() as stack:

                def stop_if_requested(where: str) -> None:
                    if stop.requested:
                        tracker.commit(pool.drain())  # the parts that workers are decoding
                        raise StoppedError(
                            f"{stop.signal_name}: stopped {where}", fix="Run the same command again to continue."
                        )

                def on_wait() -> None:
                    stop_if_requested("while rows were prepared")
                    progress.refresh()

                def step() -> None:
                    reader.reset()
                    if job.launch.prefetch_shards == 0:
                        on_wait()
                    elif stop.requested:  # ends the reader's thread; the job stops in on_wait
                        raise StoppedError(
                            f"{stop.signal_name}: stopped while rows were prepared", fix="Run again to continue."
                        )

                def on_hang(reason: str) -> None:
                    output.close()
                    stop.exit_now(
                        f"{reason}; run the same command again to continue, with a larger value if the storage is slow"
                    )

                reader = Watchdog(job.launch.hang_s, on_hang, "reading, splitting or encoding rows")
                stop.allow_drain(job.launch.grace_s, output.close)
                prepared = map(
                    partial(prepare_shard, job, tokenizer, template, model.max_context, limits.plan, step),
                    reset_before_each(shards, reader.reset),
                )
                stack.enter_context(reader)
                for shard, prompts, rejections in stream.prefetch(
                    prepared, job.launch.prefetch_shards, on_wait, reader.pause
                ):
                    stop_if_requested("between two shards")
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
                    for part in batch.plan_parts(shard, prompts, rejections, limits):
                        if output.has(shard, part):
                            progress.add_kept_rows(len(part.document_indices), source_tokens=part.num_source_tokens)
                            continue
                        stop_if_requested("after a finished part")
                        progress.begin_part(*batch.longest_row(part))
                        with (
                            explain_errors("translating the first part")
                            if tracker.nothing_committed
                            else contextlib.nullcontext()
                        ):
                            tracker.commit(pool.submit(tracker.open_task(part)))
                    tracker.mark_submitted(shard)
                tracker.commit(pool.drain())
                if tracker.has_open_parts:
                    stop_if_requested("after the running parts")
        return output.finalize()


def _read_documents(
    input: Input, job: TranslateJob, inputs: Sequence[Input], preambles: stream.PreambleCache, plan_version: int
) -> Iterator[Document]:
    """Read an input from its beginning, and return its rows with all their fields."""
    return (
        document
        for document, _ in stream.read_full_documents(
            input, job.source, inputs, job.write.added_fields, plan_version, preambles
        )
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
    """Split and encode the rows of a shard; runs in the reader's thread while other parts are decoded.

    Args:
        job: All settings.
        tokenizer: The model's tokenizer.
        template: Prompt template and languages.
        max_context: Maximum length of prompt and translation, in tokens.
        plan: Plan version of the job.
        step: Called repeatedly, also while a long row is split; an exception that it raises ends the preparation.
        shard: The shard to prepare; a skipped one is returned unchanged.

    Returns:
        The shard, its prompts, and per document index the rejection of a row that is not sent to the model.
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
    """Yield the shards unchanged, and call `reset` before each of them is read."""
    reset()
    for shard in shards:
        yield shard
        reset()


def run(job: TranslateJob, translate: Callable[[TranslateJob, Reporter], Summary] = translate) -> ExitCode:
    """Run the job and print its result.

    Returns:
        COMPLETE; TOO_MANY_ERRORS if the share of error rows is above check.max_error_rate; WARNINGS if there were
        warnings and strict=true is set.

    Raises:
        HymtError: See `translate`.
    """
    from_stdin = stream.is_stdin(job.source.path)
    unnamed = from_stdin and job.name is None
    output_dir, stop = Path(job.output_dir), signals.install()
    if from_stdin:
        streams.require_stdout()
    with Reporter(job.launch.progress.value) as reporter, stderr_capture.capture(), contextlib.ExitStack() as stack:
        if unnamed:
            temporary_folder = stack.enter_context(stop.remove_on_exit(stdin_job.create_temporary_folder()))
            job = replace(job, name="stdin", output_dir=str(temporary_folder))
        summary = translate(job, reporter)
        error_rate = sum(summary.counts.get(status, 0) for status in ERROR_STATUSES) / max(1, summary.rows)
        text = render_summary(summary, reporter.sample_pairs)
        reporter.print_result(
            render_temporary_result(text, summary) if unnamed else f"{text}\n\n{next_command(job, summary)}",
            to_stderr=from_stdin,
        )
        if from_stdin:
            stdin_job.write_to_stdout(
                summary.folder, summary.outputs, stop, output_dir, Path(job.output_dir) if unnamed else None
            )
        if error_rate > job.check.max_error_rate:
            log.error(
                "%.2f %% of the rows have no translation, more than check.max_error_rate=%g: see %s",
                100 * error_rate,
                job.check.max_error_rate,
                "above" if unnamed else summary.folder / "errors",
            )
            return ExitCode.TOO_MANY_ERRORS
    return ExitCode.WARNINGS if job.strict and reporter.num_warnings else ExitCode.COMPLETE


def next_command(job: TranslateJob, summary: Summary) -> str:
    """Return the command to run next."""
    name = summary.folder.relative_to(job.output_dir)
    output_option = "" if job.output_dir == "outputs" else f" output_dir={shlex.quote(job.output_dir)}"
    lines = [f"Next: hymt-batch verify name={shlex.quote(str(name))}{output_option}"]
    if job.source.path == "demo:bulletins":
        lines.append(
            "To translate your own file with the real model: hymt-batch translate source.path=FILE tgt_lang=fr"
        )
    return "\n".join(lines)


def render_temporary_result(text: str, summary: Summary) -> str:
    """Return the summary of a job whose folder will be removed; it shows the first errors instead of their paths."""
    errors = []
    for path in summary.errors:
        with path.open(encoding="utf-8") as file:
            errors += [f"  {escape_line(line.rstrip(), 300)}" for line in islice(file, 3)]
    errors += ["  add name=NAME to keep the errors and to be able to continue"]
    text = text.replace(str(summary.folder / "translated"), "standard output")
    return text.replace(f"  listed in {summary.folder / 'errors'}", "\n".join(errors))


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("translate")
