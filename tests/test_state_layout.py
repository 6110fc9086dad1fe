"""The state of large jobs lies in groups: no folder gets many names, and every command finds what is in them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hymt_batch import manifest, state_layout
from hymt_batch.errors import ExitCode
from hymt_batch.fs import OS_FS
from hymt_batch.records import Input
from hymt_batch.state_layout import FLAT, StateLayout
from hymt_batch.write import new_layout
from tests.test_shards import Cluster

SMALL = 3
"""Names in a folder without groups, in these tests; 1,000 otherwise."""

LARGE = 10**6
"""As if these jobs were small."""

NUM_FILES, NUM_SHARDS = 24, 12


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A job of 24 files of one shard each and one of 12 shards."""
    cluster = Cluster(tmp_path)
    for index in range(NUM_FILES):
        cluster.lines(f"small{index:02}.txt", 1 + index % 3)
    # too large to be decoded together with the others
    cluster.write("long.txt", b"".join(b"row %03d %s\n" % (row, b"x" * 1200) for row in range(5 * NUM_SHARDS)))
    return cluster


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_layout, "MAX_NAMES", SMALL)


def names(folder: Path) -> dict[str, int]:
    """Return the number of names in each folder of the state of a job."""
    folders = [path for path in (folder / ".hymt").rglob("*") if path.is_dir()]
    return {path.relative_to(folder).as_posix(): len(list(path.iterdir())) for path in [folder / ".hymt", *folders]}


def layout_of(cluster: Cluster, name: str = "job") -> StateLayout:
    return manifest.read_job(OS_FS, cluster.out / name).layout


def flat_bytes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return what the same job publishes without groups."""
    with monkeypatch.context() as patch:
        patch.setattr(state_layout, "MAX_NAMES", LARGE)
        shutil.rmtree(cluster.out / "flat", ignore_errors=True)
        assert cluster.translate(name="flat") == 0
    assert layout_of(cluster, "flat") == FLAT
    assert not [name for name in names(cluster.out / "flat") if "/g" in name or "-" in name]
    return cluster.published("flat")


@pytest.mark.parametrize(
    ("num_files", "max_shards", "digits"),
    [(1000, 1000, None), (1001, 1, 1), (64_000, 1, 1), (64_001, 1, 2), (1_024_001, 1, 3), (10**7, 1, 3), (1, 1001, 0)],
)
def test_large_jobs_get_as_few_groups_as_hold_some_thousand_names(
    num_files: int, max_shards: int, digits: int | None
) -> None:
    layout = state_layout.choose(num_files, max_shards)
    assert layout == (FLAT if digits is None else StateLayout(digits, 1000))
    assert num_files / 16**layout.file_digits <= 4000


def test_a_folder_has_some_thousand_names_at_ten_million_files_and_at_a_hundred_thousand_shards() -> None:
    layout, per_group = state_layout.choose(10**7, 10**7), dict[str, int]()
    for index in range(0, 10**7, 100):  # a sample
        file_id = hashlib.sha256(b"%d.txt" % index).hexdigest()[:16]
        group = layout.file_state(Path("job"), file_id).parent.name
        per_group[group] = per_group.get(group, 0) + 100
    assert len(per_group) == 16**3 and sum(per_group.values()) == 10**7
    layout, state = state_layout.choose(1, 10**5), Path("job/.hymt/f0123456789abcdef")
    parents = [layout.shard_parent(state, index) for index in range(10**5)]
    assert {parents.count(parent) for parent in (state, parents[-1], parents[54_321])} == {1000}
    assert len(set(parents)) == 100 and parents[-1] == state / "s0099000-0099999"
    assert layout.claim_folder(Path("job"), 1000) == Path("job/.hymt/claims/u0001000-0001999")


@pytest.mark.parametrize(
    ("input", "is_flat"),
    [
        (Input("a", "a", "", "text", size=32_000_000), True),
        (Input("a", "a", "", "text", size=33_000_000), False),  # of empty lines, it may have more than 1,000 shards
        (Input("a", "a", "", "text", "gz", size=32_000), True),
        (Input("a", "a", "", "text", "gz", size=33_000), False),
        (Input("a", "a", "", "parquet", size=33_000), False),
    ],
)
def test_the_layout_follows_from_the_most_shards_that_the_inputs_may_have(input: Input, is_flat: bool) -> None:
    assert (new_layout.choose([input], {"batch": {"shard_rows": 32768}}) == FLAT) == is_flat
    assert new_layout.choose([input], {"batch": {"shard_rows": 32768, "shard_bytes": 1000}}) != FLAT


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("keep_rows", [True, False])
def test_no_folder_gets_many_names_and_the_bytes_are_those_of_a_job_without_groups(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, keep_rows: bool
) -> None:
    most = dict[str, int]()

    def count() -> None:
        for name, number in names(cluster.out / "job").items():
            most[name] = max(number, most.get(name, 0))

    cluster.on_decode = count
    assert cluster.translate(f"write.keep_rows={str(keep_rows).lower()}") == 0
    cluster.on_decode = lambda: None
    count()
    assert layout_of(cluster) == StateLayout(1, SMALL)
    files = {name: number for name, number in most.items() if re.fullmatch(r"\.hymt/g./f\w+", name)}
    assert len(files) == NUM_FILES + 1, "each file has its state in a group"
    assert max(number for name, number in most.items() if re.fullmatch(r"\.hymt/g.", name)) <= 4 * SMALL
    (long,) = (name for name, number in files.items() if number > SMALL)
    # three shards, their groups, the record of the file and what is written aside
    assert files[long] <= 2 * SMALL + -(-NUM_SHARDS // SMALL) + 2
    in_shards = {name: number for name, number in most.items() if re.fullmatch(rf"{long}/s\d+-\d+", name)}
    assert len(in_shards) == -(-NUM_SHARDS // SMALL) - 1 and max(in_shards.values()) <= 2 * SMALL + 2
    assert max(number for name, number in most.items() if name.startswith(".hymt/attempts/")) <= SMALL
    assert not [name for name in names(cluster.out / "job") if name.startswith(".hymt/attempts/")]
    if not keep_rows:
        assert not [name for name in names(cluster.out / "job") if name.startswith(f"{long}/")]
    assert cluster.published() == flat_bytes(cluster, monkeypatch)
    assert cluster.inspect("verify") == 0


@pytest.mark.usefixtures("small_groups")
def test_tasks_and_a_merge_work_in_groups(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.prepare() == 0
    last, claims = cluster.plan().num_units - 1, set[str]()
    assert cluster.plan().layout == layout_of(cluster) == StateLayout(1, SMALL)
    cluster.on_decode = lambda: claims.update(
        path.relative_to(cluster.out / "job/.hymt").as_posix()
        for path in (cluster.out / "job/.hymt").glob("claims/**/u*")
        if path.is_file()
    )
    assert cluster.task(f"0-{last - 1}") == 0
    assert "claims/u0000002" in claims and "claims/u0000003-0000005/u0000004" in claims
    capsys.readouterr()
    assert cluster.inspect("missing") == ExitCode.MISSING and capsys.readouterr().out == f"{last}\n"
    assert cluster.inspect("merge") == ExitCode.MISSING
    assert cluster.inspect("status") == 0 and f"{last} of {last + 1} shards" in capsys.readouterr().out
    decoded = cluster.decoded
    assert cluster.task(f"0-{last - 1}") == 0 and cluster.decoded == decoded
    assert cluster.task(f"{last}") == 0
    assert cluster.inspect("merge") == 0 and cluster.inspect("missing") == 0
    assert not (cluster.out / "job/.hymt/claims").exists()
    assert cluster.published() == flat_bytes(cluster, monkeypatch)


@pytest.mark.usefixtures("small_groups")
def test_a_job_goes_on_in_the_layout_that_it_began_with(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of an earlier version has no groups, and gets none; one with groups keeps them when files are gone."""
    expected = flat_bytes(cluster, monkeypatch)
    for largest, name in ((LARGE, "flat-first"), (SMALL, "groups-first")):
        cluster.decoded = 0

        def stop() -> None:
            if cluster.decoded > 40:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(state_layout, "MAX_NAMES", largest)
            cluster.on_decode = stop
            assert cluster.translate(name=name) != 0
        cluster.on_decode, before = (lambda: None), layout_of(cluster, name)
        assert (before == FLAT) == (largest == LARGE)
        with monkeypatch.context() as patch:
            patch.setattr(state_layout, "MAX_NAMES", LARGE + SMALL - largest)
            cluster.decoded = 0
            assert cluster.translate(name=name) == 0
        assert 0 < cluster.decoded < 90, "what was committed is kept"
        assert layout_of(cluster, name) == before
        assert cluster.published(name) == expected
    for file in sorted(cluster.source.glob("small*"))[:22]:
        file.unlink()
    cluster.lines("new.txt", 2)
    monkeypatch.setattr(state_layout, "MAX_NAMES", LARGE)
    cluster.decoded = 0
    assert cluster.translate("on_input_change=update", name="groups-first") == 0
    assert cluster.decoded == 2 and layout_of(cluster, "groups-first") == StateLayout(1, SMALL)
    new = manifest.read_job(OS_FS, cluster.out / "groups-first").inputs[1]
    assert (cluster.out / f"groups-first/.hymt/g{new.file_id[:1]}/f{new.file_id}/file.json").exists()
    published, expected = cluster.published("groups-first"), flat_bytes(cluster, monkeypatch)
    del published["manifest.json"], expected["manifest.json"]  # it has the counts of the update
    assert published == expected


@pytest.mark.usefixtures("small_groups")
def test_updates_passes_and_new_settings_find_what_lies_in_groups(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.healed = False
    assert cluster.translate("check.max_error_rate=1") == 0
    data = (cluster.source / "long.txt").read_bytes()
    cluster.write("long.txt", data.replace(b"row 051", b"a new row"))
    cluster.decoded = 0
    assert cluster.translate("check.max_error_rate=1", "on_input_change=update") == 0
    assert cluster.decoded == 2, "the new row, and the one without a translation"
    cluster.healed, cluster.decoded = True, 0
    assert cluster.inspect("retry", "statuses=[empty]") == 0
    assert cluster.decoded == 1
    assert cluster.translate("write=jsonl") == 0 and cluster.translate() == 0
    assert cluster.decoded == 1 and cluster.inspect("verify") == 0
    published = {path: data for path, data in cluster.published().items() if path.startswith("translated/")}
    assert published.items() <= flat_bytes(cluster, monkeypatch).items()
    assert {file.name for file in (cluster.out / "job/.hymt").glob("**/file.json")} == {"file.json"}
    assert not list((cluster.out / "job/.hymt").glob("**/c*")), "no closed generation is left"


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("largest_before", [SMALL, LARGE])
def test_the_layout_of_a_lost_job_is_found(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, largest_before: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state_layout, "MAX_NAMES", largest_before)
        assert cluster.translate() == 0
    before, layout = cluster.published(), layout_of(cluster)
    (cluster.out / "job/.hymt/job.json").unlink()
    (cluster.out / "job/manifest.json").unlink()
    cluster.decoded = 0
    assert cluster.translate() == 0
    assert cluster.decoded == 0 and cluster.published() == before and layout_of(cluster) == layout


@pytest.mark.parametrize("largest_before", [SMALL, LARGE])
def test_a_changed_input_is_found_in_a_folder_of_another_layout(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, largest_before: int
) -> None:
    monkeypatch.setattr(state_layout, "MAX_NAMES", largest_before)
    assert cluster.translate() == 0
    monkeypatch.setattr(state_layout, "MAX_NAMES", LARGE + SMALL - largest_before)
    cluster.write("small00.txt", b"another row\n")
    before = cluster.published()
    assert cluster.translate() == ExitCode.INPUT_CHANGED
    assert cluster.translate("on_input_change=fork") == 0
    assert cluster.published() == before
    assert cluster.published("job-2")["translated/small00.txt"] == b"ANOTHER ROW\n"
    assert cluster.translate("on_input_change=redo") == 0
    assert cluster.published()["translated/small00.txt"] == b"ANOTHER ROW\n"


@pytest.mark.usefixtures("small_groups")
def test_an_earlier_version_refuses_a_folder_with_groups(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.translate() == 0
    before = {path: path.read_bytes() for path in (cluster.out / "job").rglob("*.*") if path.is_file()}
    monkeypatch.setattr(manifest, "PROTOCOL_FEATURES", ("passes",))  # of the version before
    capsys.readouterr()
    assert cluster.translate() == ExitCode.IDENTITY
    assert "'parts-1+groups'" in capsys.readouterr().err
    assert before.items() <= {p: p.read_bytes() for p in (cluster.out / "job").rglob("*.*") if p.is_file()}.items()


def test_a_small_job_is_stored_as_before(cluster: Cluster) -> None:
    (cluster.source / "long.txt").unlink()
    assert cluster.translate() == 0
    job = json.loads((cluster.out / "job/.hymt/job.json").read_bytes())
    assert job["protocol"] == "parts-1" and "layout" not in job


@pytest.mark.usefixtures("small_groups")
def test_a_job_that_starts_over_leaves_no_group(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.translate() == 0
    monkeypatch.setattr(state_layout, "MAX_NAMES", LARGE)
    assert cluster.translate("overwrite=true") == 0
    assert layout_of(cluster) == FLAT
    assert not [name for name in names(cluster.out / "job") if "/g" in name or "-" in name]
    assert cluster.published() == flat_bytes(cluster, monkeypatch)


@pytest.mark.usefixtures("small_groups")
def test_a_link_in_the_place_of_a_group_is_refused(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cluster.translate() == 0
    group = sorted((cluster.out / "job/.hymt").glob("g*"))[0]
    shutil.move(group, tmp_path / "elsewhere")
    group.symlink_to(tmp_path / "elsewhere")
    capsys.readouterr()
    assert cluster.translate() == ExitCode.PREFLIGHT
    assert f"{group} is a link" in capsys.readouterr().err


@pytest.mark.usefixtures("small_groups")
def test_what_killed_runs_left_in_groups_is_removed(cluster: Cluster) -> None:
    assert cluster.prepare() == 0
    assert cluster.task(f"0-{cluster.plan().num_units - 1}") == 0
    parents: list[Callable[[Path], Path]] = [lambda path: path, lambda path: path.parent]
    (record,) = (cluster.out / "job/.hymt").glob("g*/f*/*-*/s0000011.rows")
    left = [at(record).parent / f".tmp-x-{'0' * 32}" for at in parents]
    for path in left:
        path.write_bytes(b"half")
    assert cluster.inspect("merge") == 0
    assert not [path for path in left if path.exists()]
