"""Every operation of a small job as a crash point, and what a power loss may leave of it; then the job runs again."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.simfs import DATA, NAMES, Crash, SimFS
from faults.upper import IDENTITY, an_input, run

from hymt_batch import manifest
from hymt_batch.fs import exists
from hymt_batch.manifest import StateDamage
from hymt_batch.records import Input
from hymt_batch.write import folder as folders
from hymt_batch.write.kept import Kept
from hymt_batch.write.output import Output
from hymt_batch.write.part import PartDamage

HOME = Path("/job")
FILES = ("translated/in.txt", "errors/in.txt.errors.jsonl", "manifest.json")


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    source = tmp_path / "in.txt"
    source.write_text("".join(f"line {i}\n" for i in range(9)) + "empty\n")
    return [an_input(source)]


def final_bytes(fs: SimFS) -> list[bytes]:
    return [fs.read(HOME / name) for name in FILES]


def crashed(fs: SimFS, inputs: list[Input], acknowledged: set[str], decoded: set[str]) -> bool:
    try:
        run(HOME, inputs, fs=fs, acknowledged=acknowledged.add, decoded=decoded.add)
    except Crash:
        return True
    return False


def violations(fs: SimFS, inputs: list[Input], golden: list[bytes], acknowledged: set[str]) -> list[str]:
    """What a state after a crash breaks, before and after the job ran again in it."""
    broken = []
    if exists(fs, HOME / FILES[0]) and fs.read(HOME / FILES[0]) != golden[0]:
        broken.append("a visible output is wrong")
    try:
        manifest.read(fs, HOME)
        if not exists(fs, HOME / FILES[0]) or fs.read(HOME / FILES[0]) != golden[0]:
            broken.append("a manifest without its output")
    except StateDamage:
        kept = Kept(fs, HOME, manifest.digest(IDENTITY))
        for name in sorted(acknowledged):
            _, shard, part = name.split("/")
            path = kept.path(inputs[0].file_id, int(shard), int(part))
            try:
                if kept.judge(path, inputs[0].file_id, int(shard), int(part)) is None:
                    broken.append(f"acknowledged {name} is gone")
            except PartDamage as damage:
                broken.append(f"acknowledged {name}: {damage}")
    again: set[str] = set()
    try:
        crashed(fs, inputs, set(), again)
        if final_bytes(fs) != golden:
            broken.append("other final bytes")
    except Exception as error:
        broken.append(f"does not continue: {error!r}")
    if again & acknowledged:
        broken.append(f"made again: {sorted(again & acknowledged)}")
    return broken


def campaign(
    inputs: list[Input],
    golden: list[bytes],
    make: Callable[[int | None], SimFS],
    *,
    seed: int = 0,
    stride: int = 1,
    double: bool = False,
) -> tuple[int, list[str]]:
    """States tried, and what was broken in them."""
    rng, states, broken = random.Random(seed), 0, []
    whole = make(None)
    crashed(whole, inputs, set(), set())
    for point in range(1, whole.count + 2, stride):
        acknowledged: set[str] = set()
        fs = make(point)
        crashed(fs, inputs, acknowledged, set())
        choices = [("kill", "")] + [(data, names) for data in DATA for names in NAMES]
        for data, names in [choices[0], *rng.sample(choices[1:], 4)]:
            again = rng.randint(1, 60) if double else None
            known = set(acknowledged)
            after = fs.after_kill(again) if data == "kill" else fs.after_power_loss(data, names, rng, again)
            if double and crashed(after, inputs, known, set()):
                after = after.after_power_loss(rng.choice(DATA), rng.choice(NAMES), rng)
            after.crash_at = None
            states += 1
            broken += [f"crash at {point}, {data}, {names}: {one}" for one in violations(after, inputs, golden, known)]
    return states, broken


@pytest.fixture
def golden(inputs: list[Input]) -> list[bytes]:
    fs = SimFS()
    run(HOME, inputs, fs=fs)
    return final_bytes(fs)


def test_a_crash_at_any_operation_loses_nothing_that_was_acknowledged(inputs: list[Input], golden: list[bytes]) -> None:
    states, broken = campaign(inputs, golden, lambda at: SimFS(crash_at=at), seed=1)
    assert not broken
    assert states > 500


def test_a_second_crash_during_recovery_loses_nothing_either(inputs: list[Input], golden: list[bytes]) -> None:
    _, broken = campaign(inputs, golden, lambda at: SimFS(crash_at=at), seed=2, stride=2, double=True)
    assert not broken


@pytest.mark.parametrize("missing", ["file_sync", "dir_sync"])
def test_the_harness_sees_a_missing_fsync(inputs: list[Input], golden: list[bytes], missing: str) -> None:
    _, broken = campaign(inputs, golden, lambda at: SimFS(crash_at=at, **{missing: False}), seed=3, stride=3)
    assert broken


def test_the_harness_sees_parts_removed_before_the_manifest(
    inputs: list[Input], golden: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Output.finalize

    def wrong(self: Output) -> object:
        for input in inputs:
            folders.collect(self._fs, manifest.file_state(self.folder, input.file_id))
        return right(self)

    monkeypatch.setattr(Output, "finalize", wrong)
    _, broken = campaign(inputs, golden, lambda at: SimFS(crash_at=at), seed=4)
    assert any("is gone" in one for one in broken)


def test_a_part_found_after_a_kill_is_acknowledged_only_when_its_name_lasts(inputs: list[Input]) -> None:
    """Its writer may have been killed between the link and the sync of the folder."""
    found = 0
    for point in range(1, 200):
        fs = SimFS(crash_at=point)
        if not crashed(fs, inputs, set(), set()):
            break
        after, known = fs.after_kill(), set[str]()

        def stop_at_the_first(name: str, after: SimFS = after, known: set[str] = known) -> None:
            known.add(name)
            after.dead = True

        try:
            run(HOME, inputs, fs=after, acknowledged=stop_at_the_first)
        except Crash:
            lost = after.after_power_loss("old", "none", random.Random(0))
            kept = Kept(lost, HOME, manifest.digest(IDENTITY))
            for name in known:
                _, shard, part = name.split("/")
                path = kept.path(inputs[0].file_id, int(shard), int(part))
                assert kept.judge(path, inputs[0].file_id, int(shard), int(part)) is not None, point
                found += 1
    assert found > 50


def test_a_job_completed_after_a_kill_outlives_a_power_loss(inputs: list[Input], golden: list[bytes]) -> None:
    for point in range(1, 200):
        fs = SimFS(crash_at=point)
        if not crashed(fs, inputs, set(), set()):
            break
        after = fs.after_kill()
        assert not crashed(after, inputs, set(), set())
        for seed, names in enumerate(("none", "prefix", "subset", "subset", "subset")):
            lost, again = after.after_power_loss("old", names, random.Random(seed)), set[str]()
            assert final_bytes(lost) == golden
            assert not crashed(lost, inputs, set(), again)
            assert not again, point
