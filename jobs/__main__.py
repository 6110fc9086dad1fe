"""Entry point of `hymt-batch`: parses the command line, runs the job and maps errors to exit codes.

Does not know what a job does. Imports torch, transformers or Hydra nowhere: they come with the job that needs them.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hymt_batch import help as pages
from hymt_batch import shown, streams
from hymt_batch.errors import ExitCode, HymtError, UsageError, of_the_machine

if TYPE_CHECKING:
    from hymt_batch.config import Point

SEVERITY = (
    ExitCode.COMPLETE,
    ExitCode.WARNINGS,
    ExitCode.TOO_MANY_ERRORS,
    ExitCode.USAGE,
    ExitCode.LEASE_HELD,
    ExitCode.IDENTITY,
    ExitCode.INPUT_CHANGED,
    ExitCode.MISSING,
    ExitCode.PREFLIGHT,
    ExitCode.DAMAGE,
    ExitCode.BUG,
    ExitCode.STOPPED,
)
"""Exit codes from good to bad; a sweep returns the worst of its points."""


@dataclass(slots=True)
class CommandLine:
    """What stands on the command line, sorted."""

    job: str | None = None
    words: list[str] = field(default_factory=list)  # KEY=VALUE, in order
    help: bool = False
    version: bool = False
    info: bool = False
    multirun: bool = False
    cfg: bool = False
    package: str | None = None
    completion: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: Its words without the program; None: those of this process.

    Returns:
        The exit code; errors.MEANING says what each means.
    """
    if argv is None:
        streams.restart()
        streams.calm_warnings()
    streams.prepare()
    shown.guard_logs()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = front(words)
    except Exception as error:  # the last stop of every error
        code = tell(error)
    except KeyboardInterrupt:
        code = stopped()
    try:
        streams.finish()
    except HymtError as error:
        code = max(code, tell(error), key=SEVERITY.index)
    return int(code)


def main_as(job: str) -> NoReturn:
    """Run this process's command line as one job: what `python -m jobs.JOB` does."""
    sys.argv.insert(1, job)
    sys.exit(main())


def front(words: Sequence[str]) -> ExitCode:
    """Do what a command line asks for."""
    jobs = pages.jobs(Path(__file__).parent)
    if words[:1] == ["--complete"]:
        answer(words[1:], list(jobs))
        return ExitCode.COMPLETE
    line = read(words, list(jobs))
    if line.version:
        from importlib.metadata import version

        streams.show(f"hymt-batch {version('hymt-batch')}")
    elif line.completion is not None:
        if line.completion != "bash":
            raise UsageError(f"--completion {line.completion} is not available. Write --completion bash.")
        from hymt_batch.completion import SCRIPT

        streams.show(SCRIPT, end="")
    elif line.job is None:
        if line.words:
            raise UsageError(f"No job is named. Write hymt-batch {next(iter(jobs))} {line.words[0]} ...")
        streams.show(pages.overview(jobs))
    else:
        return run(line, line.job, jobs[line.job])
    return ExitCode.COMPLETE


def read(words: Sequence[str], jobs: Sequence[str]) -> CommandLine:
    """Sort the words of a command line; flags may stand anywhere.

    Raises:
        UsageError: An unknown flag or job.
    """
    line = CommandLine()
    queue = list(words)
    while queue:
        word = queue.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            if line.job is None and "=" not in word:
                line.job = known(word, jobs)
            else:
                line.words.append(word)
            continue
        if flag in ("--cfg", "-c", "--package", "-p", "--completion"):
            if not equals:
                value = queue.pop(0) if queue else ""
            if flag == "--completion":
                line.completion = value
            elif flag in ("--package", "-p"):
                line.package = value
            elif value != "job":
                raise UsageError(f"{flag} {value} is not available. Write --cfg job to print the job's settings.")
            else:
                line.cfg = True
        elif word in ("-h", "--help"):
            line.help = True
        elif word in ("-m", "--multirun"):
            line.multirun = True
        elif word in ("--version", "--info"):
            setattr(line, word[2:], True)
        elif word in ("--run", "-r", "--resolve"):
            continue  # Hydra's words for what is done anyway
        else:
            from hymt_batch.spelling import by_nearness

            flags = by_nearness(flag, [spelling.split(" ")[-1] for spelling in FLAGS])
            raise UsageError(f"{word} is not a flag of hymt-batch. Flags: {', '.join(flags)}.")
    return line


FLAGS = [spelling.partition(" ")[0] if "," not in spelling else spelling for spelling in pages.FLAGS]
"""Each flag's spellings, without its value."""


def known(word: str, jobs: Sequence[str]) -> str:
    """The job of this name.

    Raises:
        UsageError: There is none; the message names the nearest.
    """
    if word in jobs:
        return word
    from hymt_batch.spelling import by_nearness, exists, nearest

    near = nearest(word, jobs)
    meant = f" Did you mean {near[0]}?" if near else ""
    if exists(word) and not near:
        meant = f" To translate this file write hymt-batch translate source.path={word} tgt_lang=fr."
    raise UsageError(f"{word} is not a job.{meant} Jobs: {', '.join(by_nearness(word, jobs))}.")


def run(line: CommandLine, job: str, about: str) -> ExitCode:
    """Run a job, or print what its command line asks to print."""
    stop = None
    if job == "translate" and not (line.help or line.cfg or line.info):
        from hymt_batch import signals  # before heavy imports: a signal without a handler would kill the process

        stop = signals.install()
    from hymt_batch import config, schema

    if job not in schema.JOBS:
        raise UsageError(f"{job} has no settings in conf/ and cannot be run. Jobs: {', '.join(schema.JOBS)}.")
    if line.help:
        overrides = config.reader(job).read(line.words, sweep=line.multirun)
        chosen = {one.key: str(one.values[0] or "null") for one in overrides if one.group}
        streams.show(pages.settings(job, about, config.folder(), config.choices(job), chosen))
        return ExitCode.COMPLETE
    if line.info:
        streams.show(config.origin(job, line.words))
        return ExitCode.COMPLETE
    if line.cfg:
        streams.show(config.to_yaml(job, line.words, line.package), end="")
        return ExitCode.COMPLETE
    if line.package is not None:
        raise UsageError(f"--package {line.package} needs --cfg job. Add --cfg job, or leave --package out.")
    points = config.points(job, line.words) if line.multirun else [config.Point("", config.load(job, line.words))]
    if job != "translate":  # whose result is files
        streams.need_output()
    config.leave_removed_folder()  # every path that was given is absolute then
    module = importlib.import_module(f"{__package__}.{job}")
    if len(points) == 1 and not points[0].label:
        return ExitCode(module.run(points[0].job))
    return sweep(points, module.run, lambda: stop is not None and stop.requested)


def sweep(points: Sequence[Point], run_one: Callable[[Any], int], stopping: Callable[[], bool]) -> ExitCode:
    """Run the points of a sweep in order; one that fails does not keep the others from running.

    Args:
        points: What to run.
        run_one: Runs one job; one that is finished already returns at once.
        stopping: Whether a stop was requested.

    Returns:
        The worst exit code; a stop ends the sweep.
    """
    codes: list[ExitCode | None] = [None] * len(points)
    for number, point in enumerate(points):
        print(
            shown.shown(f"hymt-batch: point {number + 1} of {len(points)}: {point.label or point.job.name}"),
            file=sys.stderr,
            flush=True,
        )
        try:
            codes[number] = ExitCode(run_one(point.job))
        except Exception as error:  # told, counted, and the next point runs
            codes[number] = tell(error)
        except KeyboardInterrupt:
            codes[number] = stopped()
        if codes[number] is ExitCode.STOPPED:
            break
        if stopping() and number + 1 < len(points):
            break
    left = [code for code in codes if code is None]
    print("exit  point", file=sys.stderr)
    for point, code in zip(points, codes, strict=True):
        where = os.path.join(point.job.output_dir, str(point.job.name))
        print(shown.shown(f"{'-' if code is None else int(code):>4}  {where}"), file=sys.stderr)
    ran = [code for code in codes if code is not None]
    return ExitCode.STOPPED if left else max(ran, key=SEVERITY.index)


def tell(error: Exception) -> ExitCode:
    """Say on stderr what went wrong."""
    error = error if isinstance(error, HymtError) else of_the_machine(error) or error
    if isinstance(error, HymtError):
        print(shown.shown(f"hymt-batch: {error}"), file=sys.stderr, flush=True)
        return error.exit_code
    import traceback

    print(shown.shown("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    print(
        f"hymt-batch: this is a bug of hymt-batch ({type(error).__name__}). What a job committed is kept: run the same "
        "command again to continue it. Please report the lines above.",
        file=sys.stderr,
    )
    return ExitCode.BUG


def stopped() -> ExitCode:
    """Say on stderr that Ctrl-C ended the job."""
    print("hymt-batch: stopped; run the same command again to continue", file=sys.stderr)
    return ExitCode.STOPPED


def answer(words: Sequence[str], jobs: Sequence[str]) -> None:
    """Print completions for bash: its line, the cursor and its word breaks."""
    from hymt_batch import completion, config, schema
    from hymt_batch.override import settings

    if len(words) != 3 or not words[1].isdigit():
        raise UsageError("--complete is what the completion of bash calls. Write --completion bash.")
    line, point, breaks = words
    done, current, raw, quote = completion.words(line, int(point))
    flags = [spelling for spellings in FLAGS for spelling in spellings.split(", ")]
    found = completion.complete(
        done[1:],
        current,
        jobs,
        flags,
        {job: settings(fields) for job, fields in schema.JOBS.items()},
        {job: config.choices(job) for job in schema.JOBS},
    )
    streams.answer(completion.replacements(found, current, raw, quote, breaks))


if __name__ == "__main__":
    sys.exit(main())
