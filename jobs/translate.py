"""Translate a corpus: stream, translate, commit, resume.

The whole job, in the order of the flow: source -> segment -> prompt -> batch -> decode -> check -> write.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import batch, check, fs, languages, manifest, prompt, segment, signals
from hymt_batch.decode import engine
from hymt_batch.doctor import examine
from hymt_batch.doctor.explain import explaining
from hymt_batch.errors import ExitCode, StoppedError
from hymt_batch.model import network
from hymt_batch.progress import Progress, Telling, escaped, result, samples
from hymt_batch.records import ERROR_STATUSES, Segment
from hymt_batch.source import stream
from hymt_batch.write import final, formats
from hymt_batch.write.output import Output, Summary

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger("hymt_batch.jobs.translate")  # under this name also as `python -m jobs.translate`


def translate(
    job: TranslateJob,
    telling: Telling,
    prepare: Callable[..., Any] = network.prepare,
    decode_batch: Callable[..., Any] | None = None,
) -> Summary:
    """Run one job to its end, or to the next stop request.

    Args:
        job: All settings.
        telling: Where progress goes, and what was told.
        prepare: Verifies and places a model without reading weights; tests put a small real thing here.
        decode_batch: Decodes one batch instead of the engine; likewise.

    Raises:
        HymtError: Each with its exit code; whatever was committed is kept.
    """
    stop = signals.install()
    folder = Path(job.output_dir) / str(job.name)
    spool = stream.Spool(folder, replace=job.overwrite or job.on_input_change.value == "redo")
    with stop.removing(spool.aside):
        return _translate(job, telling, prepare, decode_batch, stop, folder, spool)


def _translate(
    job: TranslateJob,
    telling: Telling,
    prepare: Callable[..., Any],
    decode_batch: Callable[..., Any] | None,
    stop: signals.Stop,
    folder: Path,
    spool: stream.Spool,
) -> Summary:
    inputs = stream.find(job.source, spool, job.write.format.value)
    inputs = stream.limited(inputs, job.source)
    stream.fields_conflict(inputs, job.source, job.write.added_fields)
    for one in inputs:
        formats.check(one, final.out_format(one, job.write), stream.preamble(one, job.source), job.write)
    for finding in examine.cheap(job):
        log.warning("%s", examine.told(finding))
    words = prompt.wording(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    if job.model.path == "demo:model" and words.tgt_lang not in ("fr", "de", "zh"):
        log.warning("the demo model knows weather in fr, de and zh only; tgt_lang=%s gives nonsense", words.tgt_lang)
    model = prepare(job.model, job.device_map, job.launch.num_threads)
    limits = batch.boundaries(job.batch, model.num_parameters, model.on_gpu)
    if not job.overwrite:  # a job that goes on keeps the part sizes that `auto` gave it when it was created
        stored = stored_boundaries(folder, identity(job, model.identity, words, limits))
        limits = batch.boundaries(job.batch, model.num_parameters, model.on_gpu, stored)
    # identity first: a wrong folder costs nothing
    with Output.open(
        folder,
        identity=identity(job, model.identity, words, limits),
        environment={**model.environment, **environment(job)},
        inputs=inputs,
        config=job.write,
        read=lambda one: (document for document, _ in stream.full(one, job.source, inputs, job.write.added_fields)),
        preamble=partial(stream.preamble, config=job.source),
        overwrite=job.overwrite,
        on_mismatch=job.on_mismatch.value,
        on_input_change=job.on_input_change.value,
        lease_ttl_s=job.launch.lease_ttl_s,
        lease_beat_s=job.launch.lease_beat_s,
    ) as output:
        spool.settle(output.folder)
        if output.finished:
            log.info("already complete: nothing to do")
            return output.finalize()
        stop.holding(output.close)
        telling.log_to(output.folder / "logs")
        log.info("arguments=%s", escaped(shlex.join(sys.argv[1:]), 4000))
        tokenizer = model.load_tokenizer(add_generation_prompt=job.prompt.add_generation_prompt)
        prompt.check(tokenizer, words)
        with explaining("loading the model"):
            hymt = model.load(tokenizer)
        on_gpu = hymt.device != "cpu"
        size = batch.budget(job.batch, hymt.cache_bytes_per_token, hymt.vocab_size, hymt.free_bytes, on_gpu)
        stop.working(job.launch.grace_s, output.close)
        shards = stream.shards(
            inputs,
            job.source,
            shard_rows=limits.shard_rows,
            shard_bytes=limits.shard_bytes,
            done=output.record,
            reserved=job.write.added_fields,
        )
        with Progress(telling, job.launch.log_every_s, stream.total_units(inputs, job.source)) as progress:
            decode = engine.Decode(
                hymt,
                job.decode,
                partial(batch.group, size=size),
                seed=job.seed,
                card=job.model.sampling,
                check_stop=stop.check,
                on_batch=progress.batch,
                decode=decode_batch,
                max_rows=size.max_rows,
                max_tokens=size.max_tokens,
            )
            decode.gate()
            if decode.engine is engine.Engine.slots and job.model.attention.value != "sdpa":
                log.warning(
                    "model.attention=%s has no effect with decode.engine=slots, which has an attention of its own",
                    job.model.attention.value,
                )
            machine = model.environment_of(hymt.placement) if hymt.placement else model.environment
            output.made_in({**machine, **environment(job, decode, size)})
            first = True
            for shard in stream.prefetch(shards, job.launch.prefetch_shards):
                if stop.requested:
                    raise StoppedError(
                        f"{stop.name}: stopped between two shards; run the same command again to continue"
                    )
                if isinstance(shard, stream.SkippedShard):
                    progress.kept(shard.record.num_rows, shard.record.end - shard.record.start)
                    output.finish_record(shard.input, shard.record)
                    continue
                segments, too_long = segment.split(shard.documents, tokenizer.count, job.segment)
                prompts, leaking = prompt.render(segments, shard.documents, tokenizer, words, hymt.max_context)
                refused = {**too_long, **leaking}
                progress.shard(shard.end - shard.start, sum(p.num_source_tokens for p in prompts), last=shard.last)
                for part in batch.plan(shard.documents, prompts, limits):
                    num_tokens = sum(p.num_source_tokens for p in part.prompts)
                    if output.has(shard, part):
                        progress.kept(len(part.documents), source_tokens=num_tokens)
                        continue
                    if stop.requested:
                        raise StoppedError(
                            f"{stop.name}: stopped after a finished part; run the same command again to continue"
                        )
                    with explaining("translating the first part") if first else contextlib.nullcontext():
                        translations = check.run(decode.run(part.prompts), decode.run, job.check)
                    first = False
                    rows = check.rows(
                        part, shard.documents, translations, refused, join, one_line=output.holds_one_line(shard.input)
                    )
                    output.commit(shard, part, rows, degraded=decode.take_degraded())
                    if len(telling.pairs) < job.launch.samples:
                        texts = {document.row: document.text for document in shard.documents}
                        telling.pairs += samples(texts, rows, job.launch.samples - len(telling.pairs))
                    progress.part(len(rows), num_tokens, Counter(flag for row in rows for flag in row.flags))
                output.finish(shard)
        return output.finalize()


def identity(job: TranslateJob, model: Mapping[str, Any], words: prompt.Wording, limits: batch.Boundaries) -> Any:
    """Every setting that changes the text, or which rows form a part, with its resolved value."""
    return {
        "source": {
            key: getattr(job.source, key)
            for key in (
                "text_field",
                "src_lang_field",
                "tgt_lang_field",
                "limit",
                "max_row_bytes",
                "header",
                "delimiter",
            )
        },
        "segment": {"max_tokens": job.segment.max_tokens, "on_too_long": job.segment.on_too_long.value},
        "prompt": {**words.identity, "add_generation_prompt": job.prompt.add_generation_prompt},
        "model": {**model, "max_context": job.model.max_context},
        "batch": asdict(limits),
        "decode": {**engine.describe(job.decode, job.model.sampling), "seed": job.seed},
        "check": {
            "max_attempts": job.check.max_attempts,
            "loop_repeats": job.check.loop_repeats,
            "retry": asdict(job.model.sampling) if job.check.max_attempts > 1 else None,
        },
        "write": {
            "format": job.write.format.value,
            "on_error": job.write.on_error.value,
            "translation_field": job.write.translation_field,
            "meta_field": job.write.meta_field,
            "row_group_rows": job.write.row_group_rows,
        },
    }


def environment(
    job: TranslateJob, decode: engine.Decode | None = None, size: batch.Budget | None = None
) -> dict[str, Any]:
    """What of the settings may change a low-precision text by rounding: as asked for, or as it was settled."""
    return {
        "hymt_batch": importlib.metadata.version("hymt-batch"),
        "engine": job.decode.engine.value if decode is None else decode.engine.value,
        "max_rows": job.batch.max_rows if size is None else size.max_rows,
        "max_tokens": job.batch.max_tokens if size is None else size.max_tokens,
    }


def stored_boundaries(folder: Path, wanted: Mapping[str, Any]) -> Mapping[str, int] | None:
    """Which rows form a part in the folder's job, if that is this very job; None otherwise."""
    try:
        stored = manifest.read_job(fs.OS, folder).identity
    except manifest.StateDamage:
        return None  # no job yet, or a damaged one: Output.open says which
    if any(key != "batch" and stored.get(key) != manifest.plain(value) for key, value in wanted.items()):
        return None
    return {key: int(stored["batch"][key]) for key in ("part_rows", "part_tokens")}


def join(segments: Sequence[Segment], texts: Sequence[str], tgt_lang: str) -> str:
    """Join the texts of one document as its target language writes them."""
    return segment.join(segments, texts, spaced=languages.get(tgt_lang).spaced)


def run(job: TranslateJob, translate: Callable[[TranslateJob, Telling], Summary] = translate) -> ExitCode:
    """Run the job and tell how it went.

    Returns:
        The exit code: complete, with too many error rows, or with warnings under strict=true.
    """
    piped = stream.is_stdin(job.source.path)
    unnamed = piped and job.name is None
    with Telling(job.launch.progress.value) as telling, contextlib.ExitStack() as ends:
        if unnamed:
            place = ends.enter_context(signals.install().removing(Path(tempfile.mkdtemp())))
            job = replace(job, name="stdin", output_dir=str(place))
        done = translate(job, telling)
        error_rate = sum(done.counts.get(status, 0) for status in ERROR_STATUSES) / max(1, done.rows)
        told = result(done, telling.pairs)
        telling.say(unkept(told, done) if unnamed else f"{told}\n\n{advice(job, done)}", to_stderr=piped)
        if piped:
            telling.copy_to_stdout(done.outputs)
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
