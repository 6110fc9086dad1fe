from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hymt_batch import manifest, pretty_json
from hymt_batch.fs import OS_FS
from hymt_batch.manifest import JobRecord, StateDamagedError, StateMissingError, StateVersionError
from hymt_batch.records import Input

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
INPUT = Input(rel="语/a\udcff.txt", out_rel="语/a\udcff.txt", path="/x", format="text", file_id="0" * 16)


def a_job(**identity: object) -> JobRecord:
    return manifest.new_job({"model": {"dtype": "float32"}, **identity}, [INPUT], {"device": "cpu"})


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_unseal_returns_what_was_sealed(value: dict[str, object]) -> None:
    value = {k: v for k, v in value.items() if k not in ("version", "check")}
    assert manifest.unseal(manifest.seal(value)) == manifest.json_roundtrip(value)


def test_equal_values_have_equal_canonical_json() -> None:
    assert manifest.canonical_json({"b": 1, "a": [1.5, "é"]}) == manifest.canonical_json({"a": [1.5, "é"], "b": 1})
    assert manifest.digest({"a": 1}) != manifest.digest({"a": 1.0})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (bytes(50), "zero bytes"),
        (b'{"a": 1', "not complete JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": 1, "version": 1}', "do not match its checksum"),
        (b'{"a": 1}', "not match"),
        (b"[" * 100_000, "not complete JSON"),
        (b"\xff\xfe", "not complete JSON"),
    ],
)
@pytest.mark.fault(35)
def test_the_error_of_a_damaged_file_names_the_damage(data: bytes, why: str) -> None:
    with pytest.raises(StateDamagedError, match=why):
        manifest.unseal(data)


@pytest.mark.fault(36)
def test_every_flipped_byte_of_a_sealed_file_is_detected_or_harmless() -> None:
    data = manifest.seal({"identity": {"a": 1.5}, "created": "2026"})
    value = manifest.unseal(data)
    for position in range(len(data)):
        flipped = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        try:
            assert manifest.unseal(flipped) == value  # white space between two tokens
        except StateDamagedError:
            continue


def test_a_newer_version_is_refused_and_named() -> None:
    data = json.dumps({"version": 2, "anything": "else"}).encode()
    with pytest.raises(StateVersionError, match="version 2, and this hymt-batch reads versions up to 1"):
        manifest.unseal(data)


def test_differences_are_named_by_dotted_keys() -> None:
    old = {"a": {"x": 1, "y": [1, 2]}, "b": True, "gone": None}
    new = {"a": {"x": 1.0, "y": [1, 3]}, "b": True, "more": "text"}
    assert manifest.diff(old, new) == [
        ("a.x", 1, 1.0),
        ("a.y[1]", 2, 3),
        ("gone", None, manifest.MISSING),
        ("more", manifest.MISSING, "text"),
    ]
    assert manifest.diff({"a": True}, {"a": 1}) == [("a", True, 1)]
    assert manifest.format_diff([("a.x", 1, "b")]) == '  a.x: 1 -> "b"'


def test_a_long_difference_is_cut_after_twenty_lines() -> None:
    lines = manifest.format_diff([(f"k{i}", 0, 1) for i in range(25)]).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "  and 5 more"


def test_a_job_is_created_only_once_and_read_back(tmp_path: Path) -> None:
    (tmp_path / ".hymt").mkdir()
    job = a_job()
    assert manifest.create_job(OS_FS, tmp_path, job)
    assert not manifest.create_job(OS_FS, tmp_path, a_job(seed=1))
    job_read = manifest.read_job(OS_FS, tmp_path)
    assert (job_read.identity, job_read.identity_sha256, job_read.created, job_read.environment) == (
        job.identity,
        job.identity_sha256,
        job.created,
        job.environment,
    )
    assert [i.rel for i in job_read.inputs] == [INPUT.rel]
    assert [p.name for p in (tmp_path / ".hymt").iterdir()] == ["job.json"]


def test_missing_and_damaged_job_files_raise_different_errors(tmp_path: Path) -> None:
    with pytest.raises(StateMissingError):
        manifest.read_job(OS_FS, tmp_path)
    (tmp_path / ".hymt" / "job.json").parent.mkdir()
    (tmp_path / ".hymt" / "job.json").mkdir()
    with pytest.raises(StateDamagedError, match="it is a folder"):
        manifest.read_job(OS_FS, tmp_path)


def test_integer_keys_and_tuples_make_the_same_identity_after_reading_back() -> None:
    job = a_job(order={10: "a", 9: (1, 2)})
    assert manifest.digest(manifest.json_roundtrip(job.identity)) == job.identity_sha256
    assert job.identity["order"] == {"10": "a", "9": [1, 2]}


@given(st.dictionaries(st.text(), PLAIN, max_size=4), st.lists(PLAIN, max_size=3))
def test_a_sealed_file_has_the_bytes_of_the_standard_library_also_with_items_that_are_made_later(
    value: dict[str, object], items: list[object]
) -> None:
    value = {**value, "items": items, "version": manifest.VERSION}
    value.pop("check", None)
    expected = {**value, "check": manifest.digest(value)}
    data = manifest.seal({**value, "items": pretty_json.Items(lambda: items)})
    try:
        text = json.dumps(expected, sort_keys=True, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        text = json.dumps(expected, sort_keys=True, indent=1).encode()
    assert data == text + b"\n"
    assert manifest.seal_compact(value) == manifest.canonical_json(expected)
