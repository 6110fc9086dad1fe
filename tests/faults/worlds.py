"""The small jobs to explore, and the ways in which another process or a user damages their folders."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hymt_batch import file_units, manifest
from hymt_batch.errors import HymtError
from hymt_batch.write.input_changes import hash_input
from hymt_batch.write.settings import OnError, Retire, WriteConfig, WriteFormat
from tests.fakes import upper
from tests.faults.explore import Copy, Erring, Explorer, Tally, Zombies, copying, recover_damaged
from tests.faults.simfs import EndlessRunError, SimFS
from tests.faults.small import (
    HOME,
    PART,
    RECORD,
    RUN,
    Seen,
    World,
    final_bytes,
    holder,
    ids_from,
    in_groups,
    make,
    part_way,
    run,
    solve,
)

LEASE = f"{HOME}/.hymt/lease/job.json"


def one_file(folder: Path, rng: random.Random) -> World:
    return make("one file", folder, rng)


def two_files(folder: Path, rng: random.Random) -> World:
    return make("two files", folder, rng, files=2)


def a_unit(folder: Path, rng: random.Random) -> World:
    """Files that are decoded together: the text of a row depends on all of them."""
    world = make("files in a unit", folder, rng, files=3)
    world.identity["batch"] |= {"plan": file_units.FIRST_PLAN, "part_tokens": 1000}
    return world


def two_units(folder: Path, rng: random.Random) -> World:
    """The first of three files fills a unit, and the other two share one."""
    world = a_unit(folder, rng)
    world.name = "files in two units"
    world.identity["batch"]["part_tokens"] = max(1, (world.inputs[0].size or 0) // file_units.BYTES_PER_TOKEN)
    return world


def beats(folder: Path, rng: random.Random) -> World:
    return make("a lease that beats", folder, rng, beats=True)


def no_links(folder: Path, rng: random.Random) -> World:
    return make("no hard links", folder, rng, start=SimFS(links=False))


def stale(folder: Path, rng: random.Random) -> World:
    return make("stale listings", folder, rng, stale=True, tidy=False)


def no_dir_sync(folder: Path, rng: random.Random) -> World:
    return make("folders cannot be synced", folder, rng, start=SimFS(dir_sync=False), durable=False, tidy=False)


def a_dead_lease(folder: Path, rng: random.Random) -> World:
    """A lease of a dead process here or on another machine, or a damaged one; perhaps with a dead runner's claim."""
    world = make("a dead lease", folder, rng)
    part_way(world.start, world, 40)
    lease_bytes = manifest.canonical_json(asdict(holder(rng.choice(["here", "elsewhere"]))))
    world.start.set(LEASE, rng.choice([lease_bytes, lease_bytes, lease_bytes[:20], b"", bytes(50)]))
    if rng.random() < 0.3:
        world.start.set(f"{HOME}/.hymt/lease/stale-{'0' * 32}", lease_bytes)
    world.start = world.start.after_power_loss("whole", (True,) * 99)
    return world


def a_damaged_part(folder: Path, rng: random.Random) -> World:
    world = make("a damaged part", folder, rng)
    calls = 60
    while not (part_paths := sorted(filter(PART.fullmatch, world.start.tree()))):
        part_way(world.start, world, calls)
    return with_damage(world, rng, part_paths)


def a_long_row(folder: Path, rng: random.Random) -> World:
    return make("a long row", folder, rng, long=True, disorder=True)


def a_long_row_in_a_unit(folder: Path, rng: random.Random) -> World:
    """A divided row of a file that is decoded with others: its runs are decoded by themselves."""
    world = make("a long row in a unit", folder, rng, files=3, long=True, disorder=True)
    world.identity["batch"] |= {"plan": file_units.FIRST_PLAN, "part_tokens": 1000}
    return world


def a_unit_redone(folder: Path, rng: random.Random) -> World:
    """A job over files in a unit that stopped or ended, of which the first then changed; it runs with redo.

    The changed file is a unit of its own from then on, and what is committed of the others stays as it is.
    """
    old = make("files in a unit, redone", folder, rng, files=3, mark="-old")
    old.identity["batch"] |= {"plan": file_units.FIRST_PLAN, "part_tokens": 1000}
    changed = make("files in a unit, redone", folder, rng)
    inputs = [replace(changed.inputs[0], file_id=old.inputs[0].file_id), *old.inputs[1:]]
    documents = {**old.documents, **changed.documents}
    world = replace(old, inputs=inputs, documents=documents, options={"on_input_change": "redo"}, goes_on=True)
    part_way(old.start, old, rng.choice([1000, 60, 100, 130]))
    world.older = final_bytes(old.start)
    world.start = old.start.after_power_loss("whole", (True,) * 99)  # what it has of the old job decides the units
    return world


def a_failed_file(folder: Path, rng: random.Random) -> World:
    """One of three files is not of its format: it has no output."""
    return make("a failed file", folder, rng, files=2, subtitles="not of its format")


def a_file_that_failed(folder: Path, rng: random.Random, now: str | None = None, num_steps: int | None = None) -> World:
    """A file that was not of its format is corrected, or the other way, between two runs; the job runs with redo.

    Where it fails now, its earlier output must go; a user may have changed it.
    """
    seed, now = rng.random(), now or rng.choice(["good", "not of its format", "not of its format"])
    before = "good" if now != "good" else "not of its format"
    name = "a file that failed" if now != "good" else "a failed file, corrected"
    old = make(name, folder, random.Random(seed), mark="-old", subtitles=before)
    world = make(name, folder, random.Random(seed), start=old.start, subtitles=now)
    world = replace(
        world,
        identity=old.identity,
        shard_rows=old.shard_rows,
        part_rows=old.part_rows,
        options={"on_input_change": "redo"},
    )
    part_way(old.start, old, num_steps or rng.choice([*REDO_STEPS, 1000, 120]))
    published = "/job/translated/sub/s.srt"
    world.older = final_bytes(old.start)
    if published in world.older and rng.random() < 0.2:
        world.edited = b"somebody's own work\n"
        world.older[published] = world.edited
        world.start.set(published, world.edited)
        world.start = world.start.after_power_loss("whole", (True,) * 99)
    return world


def fields(folder: Path, rng: random.Random) -> World:
    """Rows with several text fields: a row may have more texts than a part or a shard has room for."""
    return make("rows with several texts", folder, rng, fields=True)


def two_files_of_fields(folder: Path, rng: random.Random) -> World:
    return make("two files with several texts", folder, rng, files=2, fields=True, long=True)


def fields_redone(folder: Path, rng: random.Random) -> World:
    """A job of such rows that stopped or finished, whose input then changed; it runs with redo."""
    return redo(folder, rng, fields=True)


def a_long_row_without_lease(folder: Path, rng: random.Random) -> World:
    return make("a long row without a lease", folder, rng, long=True, ttl_s=0.0, tidy=False, disorder=True)


def a_damaged_run(folder: Path, rng: random.Random) -> World:
    """A job that stopped within a divided row, of which one run is damaged."""
    world = make("a damaged run", folder, rng, long=True)
    while not (paths := sorted(filter(RUN.fullmatch, world.start.tree()))) or is_finished(world.start):
        if is_finished(world.start):
            world.start = SimFS()
        part_way(world.start, world, rng.randrange(40, 90))
    return with_damage(world, rng, paths)


def a_long_row_redone(folder: Path, rng: random.Random) -> World:
    """A job that stopped in or after a divided row, whose input then changed; it runs with redo."""
    world = redo(folder, rng, rng.randrange(50, 110), long=True)
    world.name = "a long row, redone"
    return world


def with_damage(world: World, rng: random.Random, paths: list[str]) -> World:
    """Return the world with one of these files damaged."""
    path = rng.choice(paths)
    world.damaged = damage(rng, world.start.tree()[path] or b"")
    world.start.set(path, world.damaged)
    world.start = world.start.after_power_loss("whole", (True,) * 99)
    return world


def overwrite(folder: Path, rng: random.Random) -> World:
    """The folder of a different job, finished or not, in which the job starts with overwrite=true."""
    old = make("overwrite", folder, rng, mark="-old")
    old.identity = {**old.identity, "decode": {"method": "other"}}
    world = make("overwrite", folder, rng, start=old.start, options={"overwrite": True})
    part_way(old.start, old, rng.choice(REDO_STEPS))
    world.older = final_bytes(old.start)
    return world


REDO_STEPS = (1000, 60, 80)
"""Changes of the file system after which the job of `redo` stopped; at 1000 it was finished."""


def redo(
    folder: Path, rng: random.Random, num_steps: int | None = None, *, long: bool = False, fields: bool = False
) -> World:
    """The folder of the same job with a different input, finished or not, in which the job starts with redo."""
    seed = rng.random()
    old = make("redo", folder, random.Random(seed), mark="-old", long=long, fields=fields)
    world = make("redo", folder, rng, start=old.start, options={"on_input_change": "redo"}, long=long, fields=fields)
    world.identity = old.identity
    world.shard_rows, world.part_rows = old.shard_rows, old.part_rows
    world.__post_init__()
    part_way(old.start, old, num_steps or rng.choice(REDO_STEPS))
    world.older = final_bytes(old.start)
    return world


def update(folder: Path, rng: random.Random, name: str = "update", **options: Any) -> World:
    """A finished job over two files, of which the first then changed: rows moved, some are new; it runs with update.

    A new row stands in the first and in the last shard, so that rows of the new version could be taken for known ones.
    """
    old = make(name, folder, rng, files=2, mark="-old", has_keys=True, **options)
    part_way(old.start, old, 1000)
    return updated(folder, rng, old, "new")


def updated(folder: Path, rng: random.Random, old: World, mark: str) -> World:
    """Return a world whose first file changed after its job ran as `old`; it runs with update."""
    texts = [document.text or "" for document in old.documents["in.txt"]]
    kept = [text for text in texts if rng.random() < 0.7]
    lines = [f"{mark} twice", *rng.sample(kept, len(kept)), f"changed {mark}", "empty again", f"{mark} twice"]
    world = with_first_file(old, folder / f"update-{mark}0", lines)
    world.known = frozenset(text for text in texts if not text.startswith("empty"))
    return begun_as_update(world)


def with_first_file(old: World, path: Path, lines: list[str]) -> World:
    """Return a world whose first file has other lines, and lies at another path."""
    path.write_text("".join(f"{line}\n" for line in lines))
    input = replace(old.inputs[0], path=str(path), size=path.stat().st_size)
    documents = {**old.documents, input.rel: list(upper.read(input))}
    return replace(old, inputs=[input, *old.inputs[1:]], documents=documents)


def begun_as_update(world: World, **options: Any) -> World:
    """Return a world that starts in its folder as it is, and runs with update."""
    return replace(
        world,
        options={"on_input_change": "update", **options},
        goes_on=True,
        older=final_bytes(world.start),
        start=world.start.after_power_loss("whole", (True,) * 99),
    )


def update_changed_again(folder: Path, rng: random.Random) -> World:
    """An update that was killed anywhere, after which the file changed once more, perhaps back to what it was."""
    first = update(folder, rng, "update, changed again")
    lines = [document.text or "" for document in first.documents["in.txt"]]
    part_way(first.start, first, rng.choice([rng.randrange(20, 120), 60, 80, 1000]))
    record = first.start.tree().get(f"{first.state_of(first.inputs[0])}/file.json") or b""
    is_published = hash_input(first.inputs[0])["sha256"].encode() in record
    known = frozenset(line for line in lines if not line.startswith("empty")) if is_published else first.known
    if rng.random() < 0.3:
        now = (folder / "update,_changed_again-old0").read_text().splitlines()
    else:
        now = ["again", *(line for line in lines if rng.random() < 0.6), "changed again", "empty", "again"]
    world = with_first_file(first, folder / "update-again0", now)
    world.known = known
    return begun_as_update(world)


def update_retired(folder: Path, rng: random.Random) -> World:
    """An update of a changed file that keeps earlier outputs, while the input of another one is gone."""
    config = WriteConfig(retire=Retire.all)
    world = update(folder, rng, "update, retired", config=config)
    gone = world.inputs.pop()
    world.documents = {rel: documents for rel, documents in world.documents.items() if rel != gone.rel}
    world.__post_init__()
    world.retired = {path: data for path, data in world.older.items() if path.startswith("/job/translated/")}
    return world


def update_with_other_settings(folder: Path, rng: random.Random) -> World:
    """An update with settings of another identity: what is translated stays."""
    world = update(folder, rng, "update, other settings")
    world.identity = {**world.identity, "decode": {"method": "other"}}
    world.options = {**world.options, "on_mismatch": "keep"}
    return world


def new_settings(folder: Path, rng: random.Random, num_steps: int | None = None) -> World:
    """The folder of a finished job, or of one that is being assembled again, with other output settings."""
    seed = rng.random()
    files = rng.choice([1, 2])
    old = make("new output settings", folder, random.Random(seed), files=files)
    world = make("new output settings", folder, random.Random(seed), files=files, start=old.start)
    world.config = WriteConfig(format=WriteFormat.jsonl, on_error=rng.choice(list(OnError)))
    world.settings = {**world.settings, "write.format": "jsonl", "write.on_error": world.config.on_error.value}
    world.inputs = [replace(input, out_rel=input.out_rel.replace(".txt", ".jsonl")) for input in old.inputs]
    world.__post_init__()
    part_way(old.start, old, 1000)
    published = "/job/translated/"
    world.renamed = {
        published + new.out_rel: published + before.out_rel
        for new, before in zip(world.inputs, old.inputs, strict=True)
    }
    if rng.random() < 0.3:  # a run with yet other settings was killed while it assembled the files again
        other = replace(
            old, config=WriteConfig(on_error=OnError.source), settings={**old.settings, "write.on_error": "source"}
        )
        part_way(other.start, other, rng.choice([20, 30, 40]))
    world.older = final_bytes(old.start)
    world.start = old.start.after_power_loss("whole", (True,) * 99)
    return world


def settings_taken_back(folder: Path, rng: random.Random) -> World:
    """A finished job whose run for other output settings was killed; the job runs with its own settings again."""
    seed = rng.random()
    world = make("settings taken back", folder, random.Random(seed))
    part_way(world.start, world, 1000)
    other = replace(
        world,
        config=WriteConfig(format=WriteFormat.jsonl),
        settings={**world.settings, "write.format": "jsonl"},
        inputs=[replace(input, out_rel=input.out_rel.replace(".txt", ".jsonl")) for input in world.inputs],
    )
    part_way(other.start, other, rng.randrange(10, 60))
    world.older = final_bytes(world.start)
    world.start = world.start.after_power_loss("whole", (True,) * 99)
    return world


def no_rows_kept(folder: Path, rng: random.Random) -> World:
    return make("rows are not kept", folder, rng, config=WriteConfig(keep_rows=False))


def a_damaged_record(folder: Path, rng: random.Random) -> World:
    """A job that is not finished, with a damaged row record: the rows of its shard are decoded again."""
    world = make("a damaged record", folder, rng)
    calls = 60
    while not (paths := sorted(filter(RECORD.fullmatch, world.start.tree()))) or is_finished(world.start):
        if is_finished(world.start):
            world.start, calls = SimFS(), calls - 7
        part_way(world.start, world, calls)
    return with_damage(world, rng, paths)


def is_finished(fs: SimFS) -> bool:
    return f"{HOME}/manifest.json" in fs.tree()


def an_edited_file(folder: Path, rng: random.Random) -> World:
    """A finished job whose output a user changed; perhaps without its record, or without hard links."""
    world = make("an edited file", folder, rng, start=SimFS(links=rng.random() < 0.7))
    part_way(world.start, world, 1000)
    published = "/job/translated/in.txt"
    world.edited = rng.choice([b"somebody's own work\n", (world.start.tree()[published] or b"") + b"\n", b""])
    world.older = {published: world.edited}
    world.start.set(published, world.edited)
    if rng.random() < 0.3:
        world.start.set(f"{world.state_of(world.inputs[0])}/file.json", None)
    world.options = {"overwrite": True} if rng.random() < 0.3 else {}
    world.start = world.start.after_power_loss("whole", (True,) * 99)
    return world


def prepared(folder: Path, rng: random.Random) -> World:
    """A job that is prepared, translated by two tasks and merged."""
    return make("a prepared job", folder, rng, tasks=2, disorder=True)


def prepared_files(folder: Path, rng: random.Random) -> World:
    """A prepared job of two units: files that are decoded together, and a divided row."""
    world = make("a prepared job of files", folder, rng, files=3, long=True, tasks=2, beats=True)
    world.identity["batch"] |= {"plan": file_units.FIRST_PLAN, "part_tokens": 1000}
    return world


def prepared_without_claims(folder: Path, rng: random.Random) -> World:
    """A prepared job of which two sets of tasks and two merges may work at once."""
    return make("a prepared job without claims", folder, rng, files=2, tasks=2, ttl_s=0.0, tidy=False)


def prepared_no_links(folder: Path, rng: random.Random) -> World:
    return make(
        "a prepared job without hard links", folder, rng, tasks=3, start=SimFS(links=False), stale=True, tidy=False
    )


def prepared_rows_not_kept(folder: Path, rng: random.Random) -> World:
    config = WriteConfig(keep_rows=False)
    return make("a prepared job whose rows are not kept", folder, rng, tasks=2, config=config)


def a_pass(folder: Path, rng: random.Random, **options: Any) -> World:
    """A finished job whose rows are decoded again; the job itself may run before the pass begins or goes on."""
    seed, files = rng.random(), options.pop("files", rng.choice([1, 2]))
    options.setdefault("translates_first", rng.random() < 0.5)
    name = options.pop("name", "a pass")
    old = make(name, folder, random.Random(seed), files=files, start=options.get("start", SimFS()))
    part_way(old.start, old, 1000)
    older = final_bytes(old.start)
    options["start"] = old.start.after_power_loss("whole", (True,) * 99)
    world = make(name, folder, random.Random(seed), files=files, retries=True, goes_on=True, **options)
    world.older, world.before_pass = older, old
    return world


def a_pass_in_disorder(folder: Path, rng: random.Random) -> World:
    return a_pass(folder, rng, name="a pass in disorder", disorder=True, files=3)


def a_pass_without_links(folder: Path, rng: random.Random) -> World:
    return a_pass(folder, rng, name="a pass without hard links", start=SimFS(links=False), stale=True, tidy=False)


def a_pass_without_lease(folder: Path, rng: random.Random) -> World:
    return a_pass(folder, rng, name="a pass without a lease", ttl_s=0.0, tidy=False)


def without_lease(folder: Path, rng: random.Random) -> World:
    return make("no lease at all", folder, rng, ttl_s=0.0, tidy=False)


Make = Callable[[Path, random.Random], World]


def grouped(make_world: Make) -> Make:
    """Return what makes the same worlds with their state in groups, as that of large jobs is."""

    def make_grouped(folder: Path, rng: random.Random) -> World:
        with in_groups():
            world = make_world(folder, rng)
        world.name += " in groups"
        if world.before_pass is not None:
            world.before_pass.name = world.name
        return world

    make_grouped.__name__ = f"grouped_{make_world.__name__}"
    return make_grouped


IN_GROUPS: list[tuple[Make, type[Explorer]]] = [
    (grouped(make_world), kind)
    for make_world, kinds in (
        (one_file, [Explorer, Zombies]),
        (two_files, [Erring]),
        (a_unit, [Explorer]),
        (no_links, [Explorer]),
        (stale, [Explorer]),
        (a_damaged_record, [Explorer]),
        (new_settings, [Explorer]),
        (no_rows_kept, [Explorer]),
        (overwrite, [Explorer]),
        (redo, [Explorer]),
        (update, [Explorer, Erring, Zombies]),
        (update_changed_again, [Explorer, Zombies]),
        (update_retired, [Explorer]),
        (update_with_other_settings, [Explorer]),
        (a_long_row, [Explorer]),
        (a_pass, [Explorer, Zombies]),
        (prepared, [Explorer]),
        (prepared_files, [Explorer, Zombies]),
        (prepared_rows_not_kept, [Explorer]),
        (prepared_without_claims, [Zombies]),
    )
    for kind in kinds
]
"""A layout of groups of one shard each, and groups of files: the longest paths and the most folders to sync."""

EXPLORED: list[tuple[Make, type[Explorer]]] = [
    (one_file, Explorer),
    (two_files, Explorer),
    (a_unit, Explorer),
    (two_units, Explorer),
    (beats, Explorer),
    (no_links, Explorer),
    (stale, Explorer),
    (no_dir_sync, Explorer),
    (a_dead_lease, Explorer),
    (a_damaged_part, Explorer),
    (a_damaged_record, Explorer),
    (new_settings, Explorer),
    (settings_taken_back, Explorer),
    (no_rows_kept, Explorer),
    (overwrite, Explorer),
    (redo, Explorer),
    (update, Explorer),
    (update, Zombies),
    (update, Erring),
    (update_changed_again, Explorer),
    (update_changed_again, Zombies),
    (update_changed_again, Erring),
    (update_retired, Explorer),
    (update_retired, Zombies),
    (update_retired, Erring),
    (update_with_other_settings, Explorer),
    (update_with_other_settings, Zombies),
    (update_with_other_settings, Erring),
    (redo, Zombies),
    (a_long_row, Explorer),
    (a_damaged_run, Explorer),
    (a_long_row_redone, Explorer),
    (fields, Explorer),
    (two_files_of_fields, Explorer),
    (fields_redone, Explorer),
    (a_long_row_in_a_unit, Explorer),
    (a_unit_redone, Explorer),
    (a_failed_file, Explorer),
    (a_file_that_failed, Explorer),
    (an_edited_file, Explorer),
    (one_file, Erring),
    (an_edited_file, Erring),
    (no_links, Erring),
    (new_settings, Erring),
    (a_long_row, Erring),
    (a_long_row, Zombies),
    (fields, Erring),
    (fields, Zombies),
    (a_long_row_without_lease, Zombies),
    (a_unit, Erring),
    (a_file_that_failed, Erring),
    (one_file, Zombies),
    (a_unit, Zombies),
    (a_file_that_failed, Zombies),
    (beats, Zombies),
    (without_lease, Zombies),
    (new_settings, Zombies),
    (a_pass, Explorer),
    (a_pass_in_disorder, Explorer),
    (a_pass_without_links, Explorer),
    (a_pass, Erring),
    (a_pass, Zombies),
    (a_pass_without_lease, Zombies),
    (prepared, Explorer),
    (prepared_files, Explorer),
    (prepared_no_links, Explorer),
    (prepared_rows_not_kept, Explorer),
    (prepared, Erring),
    (prepared, Zombies),
    (prepared_files, Zombies),
    (prepared_without_claims, Zombies),
    *IN_GROUPS,
]


def explore(
    folder: Path,
    rng: random.Random,
    tally: Tally,
    make_world: Make,
    kind: type[Explorer],
    limit: int,
    *,
    power: bool = True,
) -> None:
    """Explore at most `limit` states of one world; without `power` only the states that kills leave."""
    ids_from(1)
    try:
        world = make_world(folder, rng)
        solve(world)
    except (EndlessRunError, HymtError) as error:  # a world is made by running the job, here with a seeded bug
        return tally.fail([f"I14: {error}"], getattr(make_world, "__name__", str(make_world)))
    return kind(world, rng, tally).explore(limit, power=power)


DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "empty": lambda rng, data: b"",
    "half": lambda rng, data: data[: len(data) // 2],
    "one byte short": lambda rng, data: data[:-1],
    "one byte long": lambda rng, data: data + b"\n",
    "zeros": lambda rng, data: bytes(len(data)),
    "zeros from half": lambda rng, data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "a bit": lambda rng, data: flipped(rng, data),
    "noise": lambda rng, data: rng.randbytes(len(data)),
    "from the future": lambda rng, data: data.replace(b'"version": 1', b'"version": 2').replace(b'"v":1', b'"v":2'),
}


def flipped(rng: random.Random, data: bytes) -> bytes:
    position = rng.randrange(len(data)) if data else 0
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :] if data else b"\n"


def damage(rng: random.Random, data: bytes) -> bytes:
    return DAMAGES[rng.choice(list(DAMAGES))](rng, data)


def corrupt(folder: Path, rng: random.Random, tally: Tally, limit: int) -> None:
    """Damage, remove or exchange files of a job at any moment: it must end with the right bytes, or be refused.

    A refused job (exit 3: its identity cannot be read) must end with the right bytes with overwrite=true.
    """
    world = make("damage", folder, rng, long=rng.random() < 0.5)
    solve(world)
    fs, seen = SimFS(), Seen()
    ids_from(1)
    copies = copying(fs, seen, lambda at: True)
    run(fs, world, seen)
    fs.before = None
    copies += [Copy(fs, frozenset(), 0)] * (len(copies) // 2)
    for _ in range(limit):
        copy = rng.choice(copies)
        fs, damages = copy.fs.after_kill(), []
        for _ in range(rng.choice([1, 1, 2])):
            files = {path: data for path, data in sorted(fs.tree().items()) if data is not None}
            if not files:
                break
            path, kind = rng.choice(list(files)), rng.choice([*DAMAGES, "removed", "another's"])
            damages.append(f"{path} {kind}")
            if kind == "removed":
                fs.set(path, None)
            else:
                fs.set(
                    path,
                    files[rng.choice(list(files))] if kind == "another's" else DAMAGES[kind](rng, files[path]),
                )
        tally.counts["damaged states"] += 1
        tally.fail(recover_damaged(fs, world, 20_000), f"damage at {copy.at}: {'; '.join(damages)}")
