"""Gather what the data card of a finished job says, from the files of its folder. Changes nothing.

All of it is reproducible: equal jobs have equal cards. Times are in `timings`, which is stored apart. No path of the
machine is in a card, and secrets are masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.errors import MissingError
from hymt_batch.evaluate import store
from hymt_batch.fs import hash_file
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict, StateDamagedError
from hymt_batch.records import count_error_rows
from hymt_batch.run import kept_settings
from hymt_batch.sanitize import redact
from hymt_batch.write import run_progress

SCHEMA = 1
DEMO_MODEL = "demo:model"


def gather(fs: Fs, folder: Path, licence: str | None = None, about: str | None = None) -> JsonDict:
    """Return the data card of a finished job as JSON.

    Args:
        fs: The file system.
        folder: The output folder.
        licence: Licence under which the translations are released, if the user states one.
        about: What the user says about them.

    Raises:
        MissingError: The job is not complete, or a file that it published is gone or has changed.
    """
    try:
        value = manifest.read(fs, folder)
        manifest_sha256 = hash_file(fs, folder / "manifest.json")[1]
    except StateDamagedError as damage:
        raise MissingError(
            f"{folder.name} is not complete, and only a complete job has a data card",
            why=f"manifest.json: {damage}",
            fix=f"Run the job again, or look with `hymt-batch status name={folder.name}`.",
        ) from None
    check_files(fs, folder, value)
    prompt = value["identity"].get("prompt") or {}
    card: JsonDict = {
        "schema": SCHEMA,
        "name": folder.name,
        "about": about,
        "licence": licence,
        "manifest_sha256": manifest_sha256,
        "src_lang": prompt.get("src_lang"),
        "tgt_lang": prompt.get("tgt_lang"),
        "texts": manifest.count_texts([value]),
        "errors_total": count_error_rows(value["counts"]),
        "model": _model(fs, folder, value),
        "commits": kept_settings.read_commits(fs, folder),
        "seed": (value["identity"].get("decode") or {}).get("seed"),
        "evaluation": _evaluation(fs, folder),
    }
    left_out = {"protocol", "formats"}
    card |= {key: item for key, item in value.items() if key not in left_out and key not in card}
    return dict(masked(card))


def check_files(fs: Fs, folder: Path, value: JsonDict) -> None:
    """Compare the published files with a manifest.

    Raises:
        MissingError: One of them is gone, or is not as the manifest has it.
    """
    for file in published(value):
        try:
            found = hash_file(fs, folder / file["path"])
        except OSError as error:
            found, reason = (-1, ""), f"it cannot be read ({error.strerror})"
        else:
            reason = "it does not match its checksum"
        if found != (file["bytes"], file["sha256"]):
            raise MissingError(
                f"{file['path']} is not as the job published it",
                why=f"{reason}, and a data card tells what is in the folder.",
                fix=f"Look with `hymt-batch verify name={folder.name}`, and run the job again: it mends the file.",
            )


def published(value: JsonDict) -> Iterator[JsonDict]:
    """Yield path, bytes and sha256 of all files that a manifest or a card lists as published."""
    for key in ("outputs", "errors", "review"):
        yield from value.get(key, ())


def timings(fs: Fs, folder: Path) -> JsonDict:
    """Return when a job ran and how fast, as far as its folder shows it. These figures differ from run to run."""
    progress = run_progress.read(fs, folder)
    timeline = progress.timeline if progress else ()
    try:
        created: str | None = manifest.read_job(fs, folder).created
    except StateDamagedError:
        created = None
    seconds = sum(interval.seconds for interval in timeline)
    rows, tokens = sum(i.rows for i in timeline), sum(i.new_tokens for i in timeline)
    return {
        "schema": SCHEMA,
        "created": created,
        "ended": datetime.fromtimestamp(timeline[-1].end, UTC).isoformat(timespec="seconds") if timeline else None,
        "seconds": round(seconds, 3),
        "rows_per_s": round(rows / seconds, 3) if seconds else None,
        "new_tokens_per_s": round(tokens / seconds, 3) if seconds else None,
    }


def _model(fs: Fs, folder: Path, value: JsonDict) -> JsonDict:
    """Return which model it was: its name on the hub or that of its folder, and what the identity has of it."""
    settings = (kept_settings.read(fs, folder) or {}).get("model") or {}
    path = str(settings.get("path") or "")
    is_folder = Path(path).is_absolute()  # the settings of a job have no other paths of folders
    name = Path(path).name if is_folder else path
    revision = None if is_folder or path == DEMO_MODEL else settings.get("revision")
    licences = sorted({str(env["licence"]) for env in value.get("environments", ()) if env.get("licence")})
    return {"name": name or None, "revision": revision, "licence": "; ".join(licences) or None} | dict(
        value["identity"].get("model") or {}
    )


def _evaluation(fs: Fs, folder: Path) -> JsonDict | None:
    """Return the scores of `evaluate`, without the paths of references; None if there are none of this output."""
    scores = store.read(fs, folder)
    if scores is None or scores.is_stale:
        return None
    value = scores.value
    kept = {
        key: value[key] for key in ("sacrebleu", "rows", "scored", "errors", "left_out", "languages") if key in value
    }
    references = [{"sha256": file.get("sha256")} for file in value.get("references", ())]
    baseline = (value.get("baseline") or {}).get("name")
    return kept | {"references": references} | ({"baseline": baseline} if baseline else {})


def masked(value: Any) -> Any:
    """Return a JSON value with the secrets in its texts masked."""
    if isinstance(value, dict):
        return {masked(key): masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value
