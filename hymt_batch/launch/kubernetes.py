"""The manifests of a job for Kubernetes: an Indexed Job of its tasks with the jobs around it, or a CronJob.

They are only printed. Written for 1.33 and later, where backoffLimitPerIndex is stable.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from typing import Any

from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.launch import cron
from hymt_batch.launch.command import NO_RETRY, NO_RETRY_OF_JOB, JobCommand
from hymt_batch.launch.prepared_job import num_shards, prepare_words

MAX_NAME_CHARS = 40  # with a suffix and the index of a pod, at most 52 and 63
CONTAINER = "hymt-batch"
USER_ID = 10001  # of the image
SHM_SIZE = "2Gi"
MIN_DEADLINE_S = 3600


def hand_over(job: JobCommand, show: Callable[[str], object]) -> ExitCode:
    """Show the manifests of a job."""
    show(manifests(job, None if job.launch.schedule is not None else num_shards(job)))
    return ExitCode.COMPLETE


def manifests(job: JobCommand, num_shards: int | None) -> str:
    """Return the manifests as YAML documents.

    Args:
        job: The job.
        num_shards: Shards of the plan in the job's folder; None if this machine does not see it.

    Raises:
        ConfigError: A setting is missing, or the number of tasks is unknown.
    """
    import yaml

    if job.launch.image is None:
        raise ConfigError(
            "launch=k8s needs an image",
            fix="Set launch.image=REGISTRY/hymt-batch:TAG, built as docs/container.md says.",
        )
    documents = _scheduled(job) if job.launch.schedule is not None else _indexed(job, num_shards)
    text = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=1000, explicit_start=True)
    return f"{_comment(job)}{text}".rstrip()


def _comment(job: JobCommand) -> str:
    """Return how to use the manifests, as YAML comments."""
    if job.launch.schedule is not None:
        return "# kubectl apply -f FILE\n"
    name, space = object_name(job.name), f" -n {job.launch.namespace}" if job.launch.namespace else ""
    prepare = shlex.join(["hymt-batch", "prepare", *prepare_words(job)])
    if len(prepare.splitlines()) > 1:
        prepare = "hymt-batch prepare with the same settings"
    return (
        "# 1. In a container with the image and the volumes below, unless it is done:\n"
        f"#    {prepare}\n"
        f"# 2. kubectl apply{space} -f FILE\n"
        "# 3. When all tasks have ended (this waits for their success only; get shows a failure):\n"
        f"#    kubectl wait{space} --for=condition=complete --timeout=-1s job/{name}\n"
        f'#    kubectl patch{space} job/{name}-merge --patch \'{{"spec": {{"suspend": false}}}}\'\n'
        f"# If shards are missing then: kubectl delete{space} -f FILE, and again from 2; what is translated is kept.\n"
    )


def object_name(name: str) -> str:
    """Return the name of an object for a job: lower-case ASCII; with a digest where a character had to go."""
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= MAX_NAME_CHARS:
        return f"hymt-{plain}"
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"hymt-{plain[: MAX_NAME_CHARS - 9].strip('-')}-{digest}".replace("--", "-")


def _indexed(job: JobCommand, num_shards: int | None) -> list[dict[str, Any]]:
    launch = job.launch
    tasks = launch.tasks if num_shards is None else -(-num_shards // job.per_task)
    if tasks is None:
        raise ConfigError(
            f"the number of tasks is unknown: {job.folder} has no plan",
            fix="Run hymt-batch prepare with the same settings where the folder is mounted, or set launch.tasks=N to "
            "the number that it prints.",
        )
    words = [*job.job_words(task=True), "shard.index=auto", f"shard.per_task={job.per_task}"]
    spec = {
        "completionMode": "Indexed",
        "completions": max(1, tasks),
        "parallelism": min(launch.array_parallelism or tasks, tasks) or 1,
        "backoffLimitPerIndex": launch.max_requeues,
        "podFailurePolicy": _failure_policy(job, each_index=True),
        "template": _template(job, ["translate", *words], with_gpu=True),
    }
    merge = {
        "backoffLimit": launch.max_requeues,
        "podFailurePolicy": _failure_policy(job, each_index=False),
        "template": _template(job, ["merge", *job.folder_words()], with_gpu=False),
    }
    return [
        _object(job, "", "Job", "batch/v1", spec),
        _object(job, "-merge", "Job", "batch/v1", merge | {"suspend": True}),
    ]


def _scheduled(job: JobCommand) -> list[dict[str, Any]]:
    spec = {
        "backoffLimit": job.launch.max_requeues,
        "podFailurePolicy": _failure_policy(job, each_index=False),
        "template": _template(job, ["translate", *job.job_words(task=False)], with_gpu=True),
    }
    cron_spec = {
        "schedule": cron.schedule_of(job),
        "concurrencyPolicy": "Forbid",  # two runs of one job would wait for each other
        "startingDeadlineSeconds": MIN_DEADLINE_S,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 10,
        "jobTemplate": {"spec": spec},
    }
    return [_object(job, "", "CronJob", "batch/v1", cron_spec)]


def _object(job: JobCommand, suffix: str, kind: str, version: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": f"{object_name(job.name)}{suffix}"}
    if job.launch.namespace is not None:
        metadata["namespace"] = job.launch.namespace
    metadata["labels"] = {"app.kubernetes.io/name": "hymt-batch", "app.kubernetes.io/instance": object_name(job.name)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _failure_policy(job: JobCommand, *, each_index: bool) -> dict[str, Any]:
    """Return which failures end a job, or one index of it; all others count towards its limit and are retried."""

    def on_exit(action: str, codes: list[int]) -> dict[str, Any]:
        return {"action": action, "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": codes}}

    rules: list[dict[str, Any]] = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
    of_all = sorted(int(code) for code in (NO_RETRY_OF_JOB if each_index else NO_RETRY))
    rules.append(on_exit("FailJob", of_all))
    if each_index:
        rules.append(on_exit("FailIndex", sorted({int(code) for code in NO_RETRY} - set(of_all))))
    return {"rules": rules}


def _template(job: JobCommand, args: list[str], *, with_gpu: bool) -> dict[str, Any]:
    launch = job.launch
    limits: dict[str, Any] = {}
    num_gpus = 1 if launch.gpus_per_task is None else launch.gpus_per_task
    if with_gpu and num_gpus:
        limits["nvidia.com/gpu"] = num_gpus
    if launch.cpus_per_task is not None:
        limits["cpu"] = str(launch.cpus_per_task)
    if launch.mem is not None:
        limits["memory"] = launch.mem
    claims = [
        ("outputs", "/outputs", launch.outputs_claim, False),
        ("data", "/data", launch.data_claim, True),
        ("cache", "/cache/hf", launch.cache_claim, True),
    ]
    used = [claim for claim in claims if claim[2] is not None]
    container = {
        "name": CONTAINER,
        "image": launch.image,
        "args": [arg.replace("$(", "$$(") for arg in args],  # else a variable of the container
        "env": [{"name": "HF_HOME", "value": "/cache/hf"}, {"name": "HF_HUB_OFFLINE", "value": "1"}],
        "resources": {"limits": limits, "requests": {key: limits[key] for key in limits if "/" not in key}},
        "volumeMounts": [
            *({"name": name, "mountPath": path, "readOnly": is_read_only} for name, path, _, is_read_only in used),
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    volumes: list[dict[str, Any]] = [
        {"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": is_read_only}}
        for name, _, claim, is_read_only in used
    ]
    volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": SHM_SIZE}})
    return {
        "spec": {
            "restartPolicy": "Never",  # a podFailurePolicy needs it
            "terminationGracePeriodSeconds": job.grace_s,
            "securityContext": {"runAsUser": USER_ID, "runAsGroup": USER_ID, "fsGroup": USER_ID, "runAsNonRoot": True},
            "containers": [container],
            "volumes": volumes,
        }
    }
