"""Entry point of `hymt-batch`: parses the command line, runs the job and maps errors to exit codes.

Does not know what a job does. Never imports torch, transformers or Hydra itself; the job that needs them does.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hymt_batch import sanitize, streams
from hymt_batch.cli import help_text as pages
from hymt_batch.cli.command_line import FLAG_SPELLINGS, CommandLine, parse_arguments
from hymt_batch.errors import ExitCode, HymtError, UsageError, wrap_exception
from hymt_batch.severity import SEVERITY

if TYPE_CHECKING:
    from hymt_batch.config import SweepPoint


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: The arguments without the program name; None: those of this process.

    Returns:
        The exit code; errors.EXIT_CODE_MEANINGS has the meaning of each.
    """
    if argv is None:
        streams.restart_if_needed()
        streams.disable_warning_errors()
    streams.prepare()
    sanitize.sanitize_logs()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        exit_code = dispatch(words)
    except Exception as error:  # every error ends here
        exit_code = report_error(error)
    except KeyboardInterrupt:
        exit_code = report_interrupt()
    try:
        streams.flush()
    except HymtError as error:
        exit_code = max(exit_code, report_error(error), key=SEVERITY.index)
    return int(exit_code)


def main_as(job: str) -> NoReturn:
    """Run the command line of this process as one job, for `python -m jobs.JOB`."""
    sys.argv.insert(1, job)
    sys.exit(main())


def dispatch(arguments: Sequence[str]) -> ExitCode:
    """Run the job of a command line, or print what its flags ask for."""
    jobs = pages.find_jobs(Path(__file__).parent)
    if arguments[:1] == ["--complete"]:
        print_completions(arguments[1:], list(jobs))
        return ExitCode.COMPLETE
    command_line = parse_arguments(arguments, list(jobs))
    if command_line.version:
        from importlib.metadata import version

        streams.print_result(f"hymt-batch {version('hymt-batch')}")
    elif command_line.completion is not None:
        if command_line.completion != "bash":
            raise UsageError(f"--completion {command_line.completion} is not available", fix="Write --completion bash.")
        from hymt_batch.cli.shell_completion import SCRIPT

        streams.print_result(SCRIPT, end="")
    elif command_line.job is None:
        if command_line.overrides:
            example = f"hymt-batch {next(iter(jobs))} {command_line.overrides[0]} ..."
            raise UsageError("The command line names no job", fix=f"Write {example}")
        streams.print_result(pages.overview_page(jobs))
    else:
        return run_job(command_line, command_line.job, jobs[command_line.job])
    return ExitCode.COMPLETE


def run_job(command_line: CommandLine, job: str, summary: str) -> ExitCode:
    """Run a job, or print its help or settings."""
    stop = None
    if job in ("translate", "retry", "reproduce") and not (command_line.help or command_line.cfg or command_line.info):
        from hymt_batch import signals  # before heavy imports: a signal without a handler would kill the process

        stop = signals.install()
        if "launch.progress=off" not in command_line.overrides:
            streams.show_notice("hymt-batch: loading")
    from hymt_batch import config, schema
    from hymt_batch.cli import removed_cwd, sweep

    if job not in schema.JOBS:
        raise UsageError(f"{job} has no settings in conf/ and cannot be run", fix=f"Jobs: {', '.join(schema.JOBS)}.")
    if command_line.help:
        overrides = config.override_parser(job).parse(command_line.overrides, sweep=command_line.multirun)
        chosen = {override.key: str(override.values[0] or "null") for override in overrides if override.is_group}
        streams.print_result(pages.job_page(job, summary, config.conf_folder(), config.group_choices(job), chosen))
        return ExitCode.COMPLETE
    if command_line.info:
        streams.print_result(config.list_sources(job, command_line.overrides))
        return ExitCode.COMPLETE
    if command_line.cfg:
        streams.print_result(config.to_yaml(job, command_line.overrides, command_line.package), end="")
        return ExitCode.COMPLETE
    if command_line.package is not None:
        raise UsageError(f"--package {command_line.package} needs --cfg job", fix="Add --cfg job, or drop --package.")
    points = (
        config.load_sweep(job, command_line.overrides)
        if command_line.multirun
        else [config.load_point(job, command_line.overrides)]
    )
    if job != "translate":  # translate writes its result to files
        streams.require_stdout()
    removed_cwd.leave()  # if the directory was removed, config.load has checked that all paths are absolute
    module = importlib.import_module(f"{__package__}.{job}")
    run_one = module.run
    if job in ("retry", "reproduce"):  # they decode as translate does
        decode_units = importlib.import_module(f"{__package__}.translate").decode_units
        run_one = partial(module.run, decode_units=decode_units)
    if job == "retry":  # it needs to know which settings the user wrote
        words = {id(point.job): point.words for point in points}
        run_one = lambda retry_job: module.run(retry_job, words[id(retry_job)], decode_units)  # noqa: E731
    streams.clear_notice()
    if len(points) == 1 and not points[0].label:
        print_notes(points[0])
        hand_over = launcher_of(points) if job == "translate" else None
        return ExitCode((hand_over or run_one)(points[0].job))
    if job != "translate":
        return run_sweep(points, run_one, lambda: False)
    save_points(points)
    if hand_over := launcher_of(points):
        return run_sweep(points, hand_over, lambda: stop is not None and stop.requested)
    points = sweep.in_run_order(points, lambda point: point.job and point.job.model_settings)
    with module.open_sweep() as run_one:
        return run_sweep(points, run_one, lambda: stop is not None and stop.requested)


def launcher_of(points: Sequence[SweepPoint]) -> Callable[[Any], ExitCode] | None:
    """Return what hands the job of each of these points to its scheduler; None if they run in this process."""
    from hymt_batch.launch.registry import Target

    if all(point.job is None or point.job.launch.target is Target.local for point in points):
        return None
    from hymt_batch.launch import command, launcher

    words = {id(point.job): point.words for point in points}

    def hand_over(job: Any) -> ExitCode:
        of_job = command.JobCommand(
            name=str(job.name),
            output_dir=job.output_dir,
            words=words[id(job)],
            launch=job.launch,
            per_task=job.shard.per_task,
            resets=command.task_resets(
                strict=job.strict,
                overwrite=job.overwrite,
                on_mismatch=job.on_mismatch.value,
                on_input_change=job.on_input_change.value,
            ),
            cwd=os.getcwd(),
            program=command.of_this_machine(),
        )
        return launcher.launch(of_job, streams.print_result)

    return hand_over


def save_points(points: Sequence[SweepPoint]) -> None:
    """Write beside the folders of a sweep which points it has: `status` also tells of those that never began."""
    from hymt_batch.write import sweep_points

    folders = {point.job.output_dir for point in points if point.job is not None}
    for folder in folders:  # one, unless name= is swept; a point that cannot run has no job
        labels = [point.label for point in points if point.job is None or point.job.output_dir == folder]
        sweep_points.save(Path(folder), labels)


def run_sweep(
    points: Sequence[SweepPoint], run_one: Callable[[Any], int], stop_requested: Callable[[], bool]
) -> ExitCode:
    """Run the points of a sweep in order; after a failed point the next one runs, after a stop request none.

    Args:
        points: The points to run.
        run_one: Runs the job of one point; returns at once if that job is already complete.
        stop_requested: Returns whether a stop was requested.

    Returns:
        The worst exit code of the points, or STOPPED if some did not run.
    """
    codes: list[ExitCode | None] = [None] * len(points)
    for index, point in enumerate(points):
        name = point.label or ("" if point.job is None else point.job.name)
        print(
            sanitize.sanitize_text(f"hymt-batch: point {index + 1} of {len(points)}: {name}"),
            file=sys.stderr,
            flush=True,
        )
        if point.error is not None:
            codes[index] = report_error(point.error)
            continue
        print_notes(point)
        try:
            codes[index] = ExitCode(run_one(point.job))
        except Exception as error:  # the next point still runs
            codes[index] = report_error(error)
        except KeyboardInterrupt:
            codes[index] = report_interrupt()
        if codes[index] is ExitCode.STOPPED:
            break
        if stop_requested() and index + 1 < len(points):
            break
    not_run = [code for code in codes if code is None]
    print("exit  point", file=sys.stderr)
    for point, code in zip(points, codes, strict=True):
        folder = point.label if point.job is None else os.path.join(point.job.output_dir, str(point.job.name))
        print(sanitize.sanitize_text(f"{'-' if code is None else int(code):>4}  {folder}"), file=sys.stderr)
    finished = [code for code in codes if code is not None]
    return ExitCode.STOPPED if not_run else max(finished, key=SEVERITY.index)


def print_notes(point: SweepPoint) -> None:
    """Print to stderr how values of the command line were understood."""
    for note in point.notes:
        print(sanitize.sanitize_text(f"hymt-batch: {note}"), file=sys.stderr, flush=True)


def report_error(error: Exception) -> ExitCode:
    """Print an error to stderr and return its exit code."""
    streams.clear_notice()
    error = error if isinstance(error, HymtError) else wrap_exception(error) or error
    if isinstance(error, HymtError):
        print(sanitize.sanitize_text(f"hymt-batch: {error}"), file=sys.stderr, flush=True)
        return error.exit_code
    import traceback

    print(sanitize.sanitize_text("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    print(
        f"hymt-batch: this is a bug in hymt-batch ({type(error).__name__}). Everything committed is kept: run the same "
        "command again to continue. Please report the lines above.",
        file=sys.stderr,
    )
    return ExitCode.BUG


def report_interrupt() -> ExitCode:
    """Print to stderr that Ctrl-C ended the job, and return the exit code."""
    streams.clear_notice()
    print("hymt-batch: stopped; run the same command again to continue", file=sys.stderr)
    return ExitCode.STOPPED


def print_completions(arguments: Sequence[str], jobs: Sequence[str]) -> None:
    """Print completions for bash; the arguments are its command line, the cursor and its word breaks."""
    from hymt_batch import config, schema
    from hymt_batch.cli import override, shell_completion

    if len(arguments) != 3 or not arguments[1].isdigit():
        what = "--complete is only for the completion script"
        raise UsageError(what, fix="Write --completion bash to print that script.")
    line, cursor, word_breaks = arguments
    words, current, raw, quote = shell_completion.split_command_line(line, int(cursor))
    flags = [spelling for spellings in FLAG_SPELLINGS for spelling in spellings.split(", ")]
    completions = shell_completion.complete(
        words[1:],
        current,
        jobs,
        flags,
        {job: override.collect_settings(fields) for job, fields in schema.JOBS.items()},
        {job: config.group_choices(job) for job in schema.JOBS},
    )
    streams.print_names(shell_completion.bash_replies(completions, current, raw, quote, word_breaks))


if __name__ == "__main__":
    sys.exit(main())
