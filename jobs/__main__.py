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

from hymt_batch import help_text as pages
from hymt_batch import sanitize, streams
from hymt_batch.errors import ExitCode, HymtError, UsageError, wrap_exception

if TYPE_CHECKING:
    from hymt_batch.config import SweepPoint

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
    overrides: list[str] = field(default_factory=list)  # KEY=VALUE, in order
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
        streams.restart_if_needed()
        streams.disable_warning_errors()
    streams.prepare()
    sanitize.sanitize_logs()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = dispatch(words)
    except Exception as error:  # the last stop of every error
        code = report_error(error)
    except KeyboardInterrupt:
        code = report_interrupt()
    try:
        streams.flush()
    except HymtError as error:
        code = max(code, report_error(error), key=SEVERITY.index)
    return int(code)


def main_as(job: str) -> NoReturn:
    """Run this process's command line as one job: what `python -m jobs.JOB` does."""
    sys.argv.insert(1, job)
    sys.exit(main())


def dispatch(arguments: Sequence[str]) -> ExitCode:
    """Do what a command line asks for."""
    jobs = pages.find_jobs(Path(__file__).parent)
    if arguments[:1] == ["--complete"]:
        print_completions(arguments[1:], list(jobs))
        return ExitCode.COMPLETE
    line = parse_arguments(arguments, list(jobs))
    if line.version:
        from importlib.metadata import version

        streams.print_result(f"hymt-batch {version('hymt-batch')}")
    elif line.completion is not None:
        if line.completion != "bash":
            raise UsageError(f"--completion {line.completion} is not available. Write --completion bash.")
        from hymt_batch.shell_completion import SCRIPT

        streams.print_result(SCRIPT, end="")
    elif line.job is None:
        if line.overrides:
            raise UsageError(f"No job is named. Write hymt-batch {next(iter(jobs))} {line.overrides[0]} ...")
        streams.print_result(pages.overview_page(jobs))
    else:
        return run_job(line, line.job, jobs[line.job])
    return ExitCode.COMPLETE


def parse_arguments(arguments: Sequence[str], jobs: Sequence[str]) -> CommandLine:
    """Sort the words of a command line; flags may stand anywhere.

    Raises:
        UsageError: An unknown flag or job.
    """
    line = CommandLine()
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            if line.job is None and "=" not in word:
                line.job = find_job(word, jobs)
            else:
                line.overrides.append(word)
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
            from hymt_batch.override_syntax import sort_by_similarity

            flags = sort_by_similarity(flag, [spelling.split(" ")[-1] for spelling in FLAG_SPELLINGS])
            raise UsageError(f"{word} is not a flag of hymt-batch. Flags: {', '.join(flags)}.")
    return line


FLAG_SPELLINGS = [spelling.partition(" ")[0] if "," not in spelling else spelling for spelling in pages.FLAGS]
"""Each flag's spellings, without its value."""


def find_job(name: str, jobs: Sequence[str]) -> str:
    """The job of this name.

    Raises:
        UsageError: There is none; the message names the nearest.
    """
    if name in jobs:
        return name
    from hymt_batch.override_syntax import close_matches, path_exists, sort_by_similarity

    near = close_matches(name, jobs)
    meant = f" Did you mean {near[0]}?" if near else ""
    if path_exists(name) and not near:
        meant = f" To translate this file write hymt-batch translate source.path={name} tgt_lang=fr."
    raise UsageError(f"{name} is not a job.{meant} Jobs: {', '.join(sort_by_similarity(name, jobs))}.")


def run_job(command_line: CommandLine, job: str, summary: str) -> ExitCode:
    """Run a job, or print what its command line asks to print."""
    stop = None
    if job == "translate" and not (command_line.help or command_line.cfg or command_line.info):
        from hymt_batch import signals  # before heavy imports: a signal without a handler would kill the process

        stop = signals.install()
    from hymt_batch import config, schema

    if job not in schema.JOBS:
        raise UsageError(f"{job} has no settings in conf/ and cannot be run. Jobs: {', '.join(schema.JOBS)}.")
    if command_line.help:
        overrides = config.override_parser(job).parse(command_line.overrides, sweep=command_line.multirun)
        chosen = {one.key: str(one.values[0] or "null") for one in overrides if one.is_group}
        streams.print_result(pages.job_page(job, summary, config.conf_folder(), config.group_choices(job), chosen))
        return ExitCode.COMPLETE
    if command_line.info:
        streams.print_result(config.list_sources(job, command_line.overrides))
        return ExitCode.COMPLETE
    if command_line.cfg:
        streams.print_result(config.to_yaml(job, command_line.overrides, command_line.package), end="")
        return ExitCode.COMPLETE
    if command_line.package is not None:
        raise UsageError(f"--package {command_line.package} needs --cfg job. Add --cfg job, or leave --package out.")
    points = (
        config.load_sweep(job, command_line.overrides)
        if command_line.multirun
        else [config.SweepPoint("", config.load(job, command_line.overrides))]
    )
    if job != "translate":  # whose result is files
        streams.require_stdout()
    config.leave_removed_cwd()  # every path that was given is absolute then
    module = importlib.import_module(f"{__package__}.{job}")
    if len(points) == 1 and not points[0].label:
        return ExitCode(module.run(points[0].job))
    return run_sweep(points, module.run, lambda: stop is not None and stop.requested)


def run_sweep(
    points: Sequence[SweepPoint], run_one: Callable[[Any], int], stop_requested: Callable[[], bool]
) -> ExitCode:
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
            sanitize.sanitize_text(f"hymt-batch: point {number + 1} of {len(points)}: {point.label or point.job.name}"),
            file=sys.stderr,
            flush=True,
        )
        try:
            codes[number] = ExitCode(run_one(point.job))
        except Exception as error:  # told, counted, and the next point runs
            codes[number] = report_error(error)
        except KeyboardInterrupt:
            codes[number] = report_interrupt()
        if codes[number] is ExitCode.STOPPED:
            break
        if stop_requested() and number + 1 < len(points):
            break
    left = [code for code in codes if code is None]
    print("exit  point", file=sys.stderr)
    for point, code in zip(points, codes, strict=True):
        where = os.path.join(point.job.output_dir, str(point.job.name))
        print(sanitize.sanitize_text(f"{'-' if code is None else int(code):>4}  {where}"), file=sys.stderr)
    ran = [code for code in codes if code is not None]
    return ExitCode.STOPPED if left else max(ran, key=SEVERITY.index)


def report_error(error: Exception) -> ExitCode:
    """Say on stderr what went wrong."""
    error = error if isinstance(error, HymtError) else wrap_exception(error) or error
    if isinstance(error, HymtError):
        print(sanitize.sanitize_text(f"hymt-batch: {error}"), file=sys.stderr, flush=True)
        return error.exit_code
    import traceback

    print(sanitize.sanitize_text("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    print(
        f"hymt-batch: this is a bug of hymt-batch ({type(error).__name__}). What a job committed is kept: run the same "
        "command again to continue it. Please report the lines above.",
        file=sys.stderr,
    )
    return ExitCode.BUG


def report_interrupt() -> ExitCode:
    """Say on stderr that Ctrl-C ended the job."""
    print("hymt-batch: stopped; run the same command again to continue", file=sys.stderr)
    return ExitCode.STOPPED


def print_completions(arguments: Sequence[str], jobs: Sequence[str]) -> None:
    """Print completions for bash: its line, the cursor and its word breaks."""
    from hymt_batch import config, schema, shell_completion
    from hymt_batch.override import collect_settings

    if len(arguments) != 3 or not arguments[1].isdigit():
        raise UsageError("--complete is what the completion of bash calls. Write --completion bash.")
    line, point, breaks = arguments
    done, current, raw, quote = shell_completion.split_command_line(line, int(point))
    flags = [spelling for spellings in FLAG_SPELLINGS for spelling in spellings.split(", ")]
    found = shell_completion.complete(
        done[1:],
        current,
        jobs,
        flags,
        {job: collect_settings(fields) for job, fields in schema.JOBS.items()},
        {job: config.group_choices(job) for job in schema.JOBS},
    )
    streams.print_names(shell_completion.bash_replies(found, current, raw, quote, breaks))


if __name__ == "__main__":
    sys.exit(main())
