"""What `launch=` prints for Kubernetes, systemd and cron is accepted by the tools, and runs what was meant."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from hymt_batch import config
from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.launch import cron, kubernetes, systemd
from hymt_batch.launch.command import NO_RETRY, JobCommand
from hymt_batch.launch.registry import Target
from hymt_batch.launch.scheduler_settings import NAMES, USED_BY, SchedulerConfig
from jobs import __main__ as front

ODD = 'source.path=it\'s "100%" $HOME $(id) \\ 语料.txt'
WORDS = (ODD, "tgt_lang=fr", "preset=nightly", "launch=x", "launch.schedule=x", "launch.grace_s=40")


def command(target: str, words: tuple[str, ...] = WORDS, **settings: Any) -> JobCommand:
    """Return a job with settings below `launch`, as the command line gives them."""
    overrides = [f"launch={target}", *(f"launch.{name}={value}" for name, value in settings.items())]
    launch = config.load("translate", ["preset=demo", "launch.grace_s=40", *overrides]).launch
    return JobCommand("n", "outputs", words, launch, cwd="/srv/50% off", program=("/opt/hymt batch",))


# Kubernetes.


def documents(job: JobCommand, num_shards: int | None = None) -> list[dict[str, Any]]:
    """Return the printed manifests, each validated strictly against the schemas of Kubernetes."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    found = list(yaml.safe_load_all(kubernetes.manifests(job, num_shards)))
    for document in found:
        kubernetes_validate.validate(document, "1.37", strict=True)
    return found


def pod(spec: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec["template"]["spec"]
    return found


def test_the_validator_refuses_a_wrong_manifest() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (document,) = documents(command("k8s", image="r/h:1", schedule="0 2 * * *"))
    document["spec"]["concurrency"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_a_cron_job_runs_the_command_with_everything_it_needs() -> None:
    (document,) = documents(
        command("k8s", image="r/h:1", schedule="0 2 * * *", data_claim="corpus", mem="32Gi", namespace="mt")
    )
    assert (document["kind"], document["metadata"]["namespace"]) == ("CronJob", "mt")
    assert document["spec"]["concurrencyPolicy"] == "Forbid"
    spec = pod(document["spec"]["jobTemplate"]["spec"])
    (container,) = spec["containers"]
    assert container["args"][:2] == ["translate", ODD.replace("$(", "$$(")], "else Kubernetes puts a variable there"
    assert container["args"][2:] == ["tgt_lang=fr", "preset=nightly", "launch.grace_s=40", "name=n"]
    assert spec["restartPolicy"] == "Never", "a failure policy needs it"
    assert spec["terminationGracePeriodSeconds"] > 40 + 10
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "32Gi"}
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"/outputs": False, "/data": True, "/dev/shm": False}
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in spec["volumes"]


def policy(spec: Mapping[str, Any]) -> dict[str, set[int]]:
    """Return the exit codes of each action; all others are retried."""
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[0] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return {rule["action"]: set(rule["onExitCodes"]["values"]) for rule in rules[1:]}


def test_a_retry_follows_only_on_codes_that_it_may_mend() -> None:
    (document,) = documents(command("k8s", image="r/h:1", schedule="0 2 * * *"))
    assert policy(document["spec"]["jobTemplate"]["spec"]) == {"FailJob": {int(code) for code in NO_RETRY}}
    retried = set(ExitCode) - set(NO_RETRY)
    assert retried == {ExitCode.COMPLETE, ExitCode.LEASE_HELD, ExitCode.STOPPED}


def test_an_indexed_job_has_an_index_a_task_and_fails_only_what_must_fail() -> None:
    job = command("k8s", (*WORDS, "shard.per_task=4", "launch.on_failure=x"), image="r/h:1", array_parallelism=3)
    job = dataclasses.replace(job, per_task=4)
    tasks, merge = documents(job, num_shards=10)
    spec = tasks["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["backoffLimitPerIndex"] == 20 and "backoffLimit" not in spec
    (container,) = pod(spec)["containers"]
    assert container["args"][-3:] == ["name=n", "shard.index=auto", "shard.per_task=4"]
    assert not any(arg.startswith("launch.on_") for arg in container["args"]), "it is about the whole job"
    assert policy(spec) == {"FailJob": {1, 2, 3, 4}, "FailIndex": {6, 7, 8, 9, 10, 70}}
    assert merge["spec"]["suspend"] is True
    assert pod(merge["spec"])["containers"][0]["args"] == ["merge", "name=n"]
    assert "nvidia.com/gpu" not in pod(merge["spec"])["containers"][0]["resources"]["limits"]
    assert f"job/{merge['metadata']['name']} --patch" in kubernetes.manifests(job, 10), "how to start it"


def test_an_indexed_job_needs_a_plan_or_the_number_of_its_tasks() -> None:
    with pytest.raises(ConfigError, match=r"launch\.tasks=N"):
        kubernetes.manifests(command("k8s", image="r/h:1"), None)
    assert documents(command("k8s", image="r/h:1", tasks=7))[0]["spec"]["completions"] == 7


@pytest.mark.parametrize("name", ["News_2026", "-", "语料", "x" * 200, "a.b"])
def test_any_name_of_a_job_makes_a_valid_and_unique_name_of_an_object(name: str) -> None:
    made = kubernetes.object_name(name)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", made)
    assert len(made) <= 48
    assert made != kubernetes.object_name(f"{name}-")


def test_kubernetes_needs_an_image() -> None:
    with pytest.raises(ConfigError, match=r"launch\.image="):
        kubernetes.manifests(command("k8s", schedule="0 2 * * *"), None)


# systemd.


def files(text: str) -> dict[str, str]:
    """Return the printed files by name."""
    parts = re.split(r"^# /etc/systemd/system/(\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_systemd_accepts_the_units_and_runs_the_command_as_it_was_written(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    job = command("systemd", schedule="Mon..Fri 03:00")
    made = files(systemd.units(job, "root").replace("/opt/hymt batch", "/bin/echo").replace("/srv/50%% off", "/"))
    assert set(made) == {"hymt-batch-n.service", "hymt-batch-n.timer"}
    for name, text in made.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    paths = [str(tmp_path / name) for name in made]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    wrong = made["hymt-batch-n.service"].replace("Type=exec", "Type=oneshot")
    (tmp_path / "hymt-batch-n.service").write_text(wrong, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert done.stderr, "systemd refuses the restart rules there"


def test_words_for_systemd_lose_no_character() -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", systemd.units(command("systemd"), "root"), re.MULTILINE)
    words = [re.sub(r'\\(["\\])', r"\1", word) for word in re.findall(r'"((?:[^"\\]|\\.)*)"', line)]
    words = [word.replace("$$", "$").replace("%%", "%") for word in words]
    assert words[:3] == ["/opt/hymt batch", "translate", ODD]
    assert words[3:] == ["tgt_lang=fr", "preset=nightly", "launch.grace_s=40", "name=n"]


# cron.


def test_cron_runs_the_command_and_prints_only_what_failed(tmp_path: Path) -> None:
    program = tmp_path / "hymt stub"
    program.write_text('#!/bin/sh\nprintf "<%s>" "$@"\nexit "$CODE"\n')
    program.chmod(0o755)
    job = command("cron")
    job = JobCommand("n", "outputs", job.words, job.launch, cwd=str(tmp_path), program=(str(program),))
    line = cron.crontab_line(job).splitlines()[-1]
    assert line.startswith("0 2 * * * ")
    assert not re.search(r"(?<!\\)%", line), "a percent sign ends the command"
    text = line.removeprefix("0 2 * * * ").replace("\\%", "%")
    for code, shown in (("0", ""), ("10", f"exit code 10\n<translate><{ODD}><tgt_lang=fr>")):
        done = subprocess.run(["/bin/sh", "-c", text], env={"CODE": code}, capture_output=True, text=True, check=False)
        assert done.stdout.startswith(shown) and bool(done.stdout) == bool(shown), done


@pytest.mark.parametrize("schedule", ["02:00", "0 2 * *", "0 2 * * * root", "0 2 * * $x"])
def test_a_time_that_cron_does_not_know_is_refused(schedule: str) -> None:
    for target in ("cron", "k8s"):
        settings = {"image": "r/h:1"} if target == "k8s" else {}
        with pytest.raises(ConfigError, match=r"launch\.schedule"):
            cron.schedule_of(command(target, schedule=schedule, **settings))


@pytest.mark.parametrize("write", [lambda job: systemd.units(job, "root"), cron.crontab_line])
def test_a_line_break_is_refused_where_a_line_is_written(write: Any) -> None:
    with pytest.raises(ConfigError, match="line break"):
        write(command("cron", ("source.path=a\nb.txt",)))


# Settings.


def test_a_setting_of_another_scheduler_is_refused() -> None:
    for words, shown in (
        (["launch.partition=gpu"], "launch=slurm"),
        (["launch=cron", "launch.image=x"], "launch=k8s"),
        (["launch=k8s", "launch.gres=gpu:1"], "launch=slurm"),
    ):
        with pytest.raises(ConfigError, match=shown):
            config.load("translate", ["preset=demo", *words])


def test_every_setting_of_a_scheduler_names_its_targets() -> None:
    assert set(USED_BY) | {"target"} == NAMES
    targets = {target.value for target in Target}
    assert all(set(used) <= targets for used in USED_BY.values())
    assert SchedulerConfig().target is Target.local


@pytest.mark.parametrize("target", ["systemd", "cron"])
def test_the_command_line_prints_and_runs_nothing(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.txt").write_text("x\n")
    assert front.main(["translate", "source.path=a b.txt", "tgt_lang=fr", "model=demo", f"launch={target}"]) == 0
    out = capsys.readouterr().out
    assert ("a b.txt" in out and "launch=" not in out and f"cd -- {shlex.quote(str(tmp_path))}" in out) or "Exec" in out
    assert [path.name for path in tmp_path.iterdir()] == ["a b.txt"]
