"""`launch=slurm` without a SLURM: which tasks there are, and the scripts that a dry run prints."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hymt_batch.errors import ExitCode
from hymt_batch.launch import prepared_job, slurm, slurm_submit
from hymt_batch.launch.command import JobCommand
from hymt_batch.launch.registry import Target
from hymt_batch.launch.settings import LaunchConfig
from jobs import __main__ as front


def job(**settings: object) -> JobCommand:
    launch = LaunchConfig(target=Target.slurm, **settings)  # type: ignore[arg-type]
    return JobCommand("n", "outputs", (), launch, cwd="/x", program=("hymt-batch",))


def shellcheck(script: str) -> str:
    """Return what shellcheck finds."""
    program = Path(sys.executable).parent / "shellcheck"
    assert program.exists(), "install the extra dev"
    return subprocess.run([program, "-"], input=script, capture_output=True, text=True, check=False).stdout


def test_tasks_have_the_missing_shards_of_their_share() -> None:
    assert prepared_job.task_lists([0, 1, 2, 3, 5, 9], 4) == ["0-3", "5", "9"]
    assert prepared_job.task_lists([0, 1, 3], 4) == ["0-1 3"]
    assert prepared_job.task_lists([], 4) == []


def scripts(
    num_tasks: int, monkeypatch: pytest.MonkeyPatch, max_array_size: int = 10, **settings: object
) -> list[slurm_submit.Script]:
    monkeypatch.setattr(slurm_submit, "max_array_size", lambda: max_array_size)
    tasks = prepared_job.task_lists(range(num_tasks), 1)
    return list(slurm_submit.plan_scripts(job(**settings), tasks, "label", "now"))


def test_more_tasks_than_an_array_may_have_are_several_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripts(25, monkeypatch)
    assert [script.name for script in made] == ["array-0", "array-1", "array-2", "merge"]
    arrays = [re.search(r"--array=(\S+)", script.text) for script in made[:-1]]
    assert [array and array[1] for array in arrays] == ["0-9", "0-9", "0-4"]
    shards = [line for script in made[:-1] for line in re.split(r"shards=\(\n|\n\)\n", script.text)[1].splitlines()]
    assert shards == [str(index) for index in range(25)], "every task has its own, whatever its index"
    assert [script.after for script in made] == [(), (), (), (0, 1, 2)]


def test_the_logs_of_many_tasks_lie_in_a_folder_for_each_array(monkeypatch: pytest.MonkeyPatch) -> None:
    def logs(made: list[slurm_submit.Script]) -> list[str]:
        return [re.findall(r"--output=(\S+)/[^/\s]+\.log", script.text)[0] for script in made]

    few = scripts(1000, monkeypatch, max_array_size=100_000)
    assert len(few) == 2 and logs(few) == [slurm.log_folder(job())] * 2
    many = scripts(2500, monkeypatch, max_array_size=100_000)
    sizes = [re.findall(r"--array=0-(\d+)", script.text) for script in many]
    assert sizes == [["999"], ["999"], ["499"], []], "an array has at most a thousand tasks, wherever it may have more"
    folders = [f"{slurm.log_folder(job())}/now-array-{index}" for index in range(3)]
    assert logs(many) == [*folders, slurm.log_folder(job())]
    assert [script.logs for script in many] == [*folders, ""]


def test_a_limit_of_tasks_at_once_holds_for_all_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripts(25, monkeypatch, array_parallelism=3)
    assert "--array=0-9%3" in made[0].text
    assert [script.after for script in made] == [(), (0,), (1,), (0, 1, 2)]


def test_the_options_of_a_cluster_reach_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    (array, merge) = scripts(
        1, monkeypatch, account="a", partition="p,q", qos="high", time="1-12", constraint="[a|b]&c", gres="gpu:a100:1",
        cpus_per_task=8, mem="32G", extra=["#SBATCH --mail-type=END", "--exclusive"], setup=["module load cuda"],
    )  # fmt: skip
    options = set(re.findall(r"^#SBATCH --(\S+)$", array.text, re.MULTILINE))
    assert options >= {
        *("account=a", "partition=p,q", "qos=high", "time=1-12", "gres=gpu:a100:1", "cpus-per-task=8", "mem=32G"),
        *("mail-type=END", "exclusive", "requeue", "signal=B:USR1@56", "open-mode=append"),
    }
    assert '--constraint="[a|b]&c"' in array.text
    assert array.text.index("module load cuda") < array.text.index("hymt-batch translate")
    assert "gres" not in merge.text and "--account=a" in merge.text


@pytest.mark.parametrize(
    ("value", "quoted"), [("a.b/c:1", "a.b/c:1"), ('a "b" \\', '"a \\"b\\" \\\\"'), ("#x", '"#x"'), ("", '""')]
)
def test_values_of_options_are_quoted_as_slurm_reads_them(value: str, quoted: str) -> None:
    assert slurm.quote_option(value) == quoted


def test_a_dry_run_prints_scripts_that_are_clean_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = 'it\'s $HOME "(1)" 语料.txt'
    (tmp_path / name).write_text("x\n")
    words = ["translate", f"source.path={name}", "model=demo", "launch=slurm", "launch.dry_run=true"]
    words += [
        "launch.setup=['module load \"a b\"']",
        "launch.on_failure=echo $HYMT_EXIT_CODE",
        "launch.devices=[80GiB]",
    ]
    assert front.main([*words, "tgt_lang=fr", "name=n"]) == 0
    out, err = capfd.readouterr()
    assert "Traceback" not in err and "prepare" in out and "'devices=[80GiB]'" in out
    array, merge = re.split(r"(?m)^#!/bin/bash$", out)[1:]
    for script in (array, merge):
        assert shellcheck(f"#!/bin/bash{script}") == ""
    assert not re.search(r"launch=|launch\.(?!max_requeues)", array.partition("shards=")[2])
    assert "HYMT_EXIT_CODE" in out.partition("#!/bin/bash")[0]  # given to prepare, whose plan gives it to the merge
    assert "HYMT_EXIT_CODE" not in merge  # where it would run a second time
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_each_point_of_a_sweep_is_submitted_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("x\n")
    words = ["source.path=in.txt", "model=demo", "launch=slurm", "launch.dry_run=true", "name=s", "tgt_lang=fr,de"]
    assert front.main(["translate", "-m", *words]) == 0
    out, _ = capfd.readouterr()
    tasks = re.findall(r"hymt-batch\S* translate (.*) shard\.index=", out)
    assert len(tasks) == 2
    for language, task in zip(("fr", "de"), tasks, strict=True):
        assert f"tgt_lang={language} name=tgt_lang={language} output_dir=outputs/s" in task
    # such a task finds its point: its name is accepted in the folder of a sweep, and nowhere else
    point = ["source.path=in.txt", "model=demo", "tgt_lang=fr", "name=tgt_lang=fr"]
    assert front.main(["prepare", *point]) == ExitCode.USAGE
    assert front.main(["prepare", *point, "output_dir=outputs/s", "device_map=cpu"]) == 0
    assert (tmp_path / "outputs/s/tgt_lang=fr/.hymt/plan.json").exists()


def test_a_task_gets_no_word_that_is_for_the_whole_job() -> None:
    words = ("a=b", "overwrite=true", "on_input_change=redo", "strict=true", "launch.on_success=x", "launch.workers=2")
    of_job = dataclasses.replace(job(), words=words, resets=("strict=false",))
    assert of_job.job_words(task=True) == ["a=b", "launch.workers=2", "strict=false", "name=n"]
    assert of_job.job_words(task=False) == [*words, "name=n"]


@pytest.mark.parametrize("word", ["source.path=-", "shard.index=3", "on_mismatch=fork"])
def test_what_tasks_cannot_do_is_refused(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("x\n")
    words = ["translate", "source.path=in.txt", "tgt_lang=fr", "model=demo", "launch=slurm", "launch.dry_run=true"]
    assert front.main([*words, "name=n", word]) == ExitCode.USAGE


def test_without_slurm_the_message_names_the_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_submit.shutil, "which", lambda name: None)
    (tmp_path / "in.txt").write_text("x\n")
    assert front.main(["translate", "source.path=in.txt", "tgt_lang=fr", "model=demo", "launch=slurm"]) == 6
    assert "launch.dry_run=true" in capsys.readouterr().err


def test_tasks_do_not_get_what_a_preset_sets_for_the_whole_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """preset=nightly sets strict and on_input_change=update; a task refuses the latter."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("x\n")
    words = ["source.path=in.txt", "tgt_lang=fr", "model=demo", "preset=nightly", "name=n", "device_map=cpu"]
    assert front.main(["translate", *words, "launch=slurm", "launch.dry_run=true"]) == 0
    (task,) = re.findall(r"hymt-batch\S* translate (.*) shard\.index=", capfd.readouterr().out)
    assert shlex.split(task)[-3:] == ["strict=false", "on_input_change=refuse", "name=n"]
    assert front.main(["translate", *words, "shard.index=0"]) == ExitCode.USAGE
    assert "Set on_input_change=refuse for the tasks" in capfd.readouterr().err
    assert front.main(["translate", *shlex.split(task), "shard.index=0"]) == ExitCode.USAGE
    assert "was not prepared" in capfd.readouterr().err, "it is accepted as a task"


def test_a_job_that_one_process_finished_needs_no_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no plan, so nothing tells which shards are missing."""
    of_job = dataclasses.replace(job(), cwd=str(tmp_path), program=("false",))
    of_job.folder.mkdir(parents=True)
    (of_job.folder / "manifest.json").touch()
    monkeypatch.setattr(slurm_submit, "_check_queue", lambda label: None)
    monkeypatch.setattr(slurm_submit, "prepare_job", lambda job: ExitCode.COMPLETE)
    shown: list[str] = []
    assert slurm_submit.hand_over(of_job, shown.append) is ExitCode.COMPLETE
    assert shown == ["outputs/n is complete: nothing is left to submit"]


def test_prepare_says_nothing_of_next_commands_when_a_launcher_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("x\n")
    words = ["prepare", "source.path=in.txt", "tgt_lang=fr", "model=demo", "name=n", "device_map=cpu"]
    assert front.main(words) == 0
    assert "\nNext: " in capfd.readouterr().out
    monkeypatch.setenv(prepared_job.PREPARED_BY, "slurm")
    assert front.main(words) == 0
    out = capfd.readouterr().out
    assert "1 shard" in out and "Next" not in out
