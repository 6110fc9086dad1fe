from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hymt_batch import manifest
from hymt_batch.records import Row, ShardRecord, Status
from hymt_batch.write import part as parts
from hymt_batch.write import row_lines
from hymt_batch.write.state_file import StateFileDamagedError

RECORD = ShardRecord(2, 100, 10, 5000, 6000, "ab" * 32, True)


def encode(rows: list[Row], **fields: object) -> bytes:
    defaults: dict[str, object] = {
        "identity": "1" * 64,
        "environment": {"device": "cpu", "名": 1},
        "file_id": "f" * 16,
        "shard": RECORD,
        "part_index": 1,
        "num_parts": 3,
        "uuid": "u",
        "epoch": 4,
        "degraded": ("oom_split",),
    }
    return parts.encode(rows, parts.PartOrigin(**{**defaults, **fields}))  # type: ignore[arg-type]


ROWS = [
    Row(101, b"12345678", Status.OK, "译文 \u2028 \ud800 \0", ("copied_number",), "", 2, 7, 9),
    Row(104, b"abcdefgh", Status.TOO_LONG, "", (), "the row has 9 bytes", 1, 0, 0),
]


def test_decoding_an_encoded_part_gives_the_same_part() -> None:
    header, rows = parts.decode(encode(ROWS))
    assert rows == ROWS
    assert (header.shard, header.part_index, header.num_parts, header.num_rows) == (RECORD, 1, 3, 2)
    assert header.environment == {"device": "cpu", "名": 1}
    assert header.counts == {"ok": 1, "too_long": 1}
    assert (header.uuid, header.epoch, header.degraded) == ("u", 4, ("oom_split",))


@given(st.lists(st.tuples(st.text(), st.text(), st.sampled_from(list(Status))), max_size=5))
def test_any_text_survives_encoding_and_decoding(values: list[tuple[str, str, Status]]) -> None:
    rows = [Row(i, bytes(8), status, text, (message,), message) for i, (text, message, status) in enumerate(values)]
    assert parts.decode(encode(rows))[1] == rows


@given(st.text(), st.text(), st.sampled_from(list(Status)))
def test_a_row_is_encoded_exactly_like_json_dumps(text: str, message: str, status: Status) -> None:
    odd = "".join(map(chr, [*range(0x20), 0x22, 0x5C, 0x7F, 0x85, 0x2028, 0xFEFF, 0x1F600]))
    row = Row(2**40, b"\0\xffabcdef", status, odd + text, (message, "loop"), message, 3, 70_000, 0)
    written = {
        "row": 2**40,
        "digest": row.digest.hex(),
        "status": status.value,
        "flags": [message, "loop"],
        "text": odd + text,
        "message": message,
        "attempts": 3,
        "source_tokens": 70_000,
        "new_tokens": 0,
    }
    assert encode([row]).partition(b"\n")[2].decode() == (
        json.dumps(written, ensure_ascii=False, separators=(",", ":")) + "\n"
    )


@pytest.mark.parametrize("text", ["ein Text", "\ud800"])
def test_the_language_of_a_row_is_kept_before_its_measurements(text: str) -> None:
    row = Row(101, bytes(8), Status.OK, text, measures=(("long", 1.5),), language=("de", 0.734))
    data = encode([row, Row(104, bytes(8), Status.OK, text)])
    assert b',"language":["de",0.734],"measures":{"long":1.5}}\n' in data
    assert parts.decode(data)[1] == [row, Row(104, bytes(8), Status.OK, text)]


@pytest.mark.parametrize("language", ["7", '"de"', '["de"]', '["de","high"]', '["de",0.1,0.2]', '["de",null]', "[]"])
def test_a_language_that_is_none_is_damage(language: str) -> None:
    line = row_lines.encode_rows([Row(1, bytes(8), Status.OK, "a", language=("de", 0.5))])
    with pytest.raises((ValueError, TypeError)):
        row_lines.decode_rows(line.replace(b'["de",0.5]', language.encode()))


def test_a_lone_surrogate_does_not_change_the_other_rows() -> None:
    with_surrogate, plain = ROWS[0], Row(102, b"12345678", Status.OK, "译文")
    lines = encode([with_surrogate, plain]).splitlines(keepends=True)[1:]
    assert b"\\ud800" in lines[0] and lines[0].isascii()
    assert lines[1:] == encode([plain]).splitlines(keepends=True)[1:]


@pytest.mark.parametrize("suffix", [b" {}", b",", b"1", b" "], ids=["two values", "comma", "digit", "blank"])
def test_a_row_with_more_than_one_value_is_damage(suffix: bytes) -> None:
    header, _, payload = encode(ROWS).partition(b"\n")
    payload = payload.replace(b"}\n", b"}" + suffix + b"\n")
    value = json.loads(header)
    del value["check"]
    value |= {"len": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    line = manifest.canonical_json({**value, "check": manifest.digest(value)})
    with pytest.raises(StateFileDamagedError, match="a row is incomplete"):
        parts.decode(line + b"\n" + payload)


@pytest.mark.fault(36)
def test_every_flipped_bit_is_detected() -> None:
    data = encode(ROWS)
    for position in range(len(data)):
        for bit in range(8):
            with pytest.raises(StateFileDamagedError):
                parts.decode(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])


@pytest.mark.fault(35)
def test_every_truncation_is_detected() -> None:
    data = encode(ROWS)
    for length in range(len(data)):
        with pytest.raises(StateFileDamagedError):
            parts.decode(data[:length])


def test_a_part_of_a_newer_version_is_rejected_with_its_version() -> None:
    line, _, payload = encode(ROWS).partition(b"\n")
    value = json.loads(line)
    value["v"] = 99
    with pytest.raises(StateFileDamagedError, match="a newer hymt-batch wrote it"):
        parts.decode(json.dumps(value).encode() + b"\n" + payload)


@pytest.mark.parametrize("rows", [[ROWS[1], ROWS[0]], [ROWS[0], ROWS[0]]], ids=["unordered", "twice"])
def test_rows_out_of_order_are_detected(rows: list[Row]) -> None:
    with pytest.raises(StateFileDamagedError, match="the order of its rows"):
        parts.decode(encode(rows))


@pytest.mark.parametrize("data", [b"", b"\n", bytes(100), b"[]\n", b"{}\n", b"[" * 100_000, b"\xff\n", b'{"v":1}\n'])
@pytest.mark.fault(35)
def test_any_other_data_is_damage_and_never_another_error(data: bytes) -> None:
    with pytest.raises(StateFileDamagedError):
        parts.decode(data)


def with_field(field: str, value: object) -> bytes:
    """Return a part with another value in a field of its first row, and valid checksums."""
    line, _, payload = encode(ROWS[:1]).partition(b"\n")
    other_payload = json.dumps({**json.loads(payload), field: value}).encode() + b"\n"
    header = {**json.loads(line), "len": len(other_payload), "sha256": hashlib.sha256(other_payload).hexdigest()}
    del header["check"]
    return manifest.canonical_json({**header, "check": manifest.digest(header)}) + b"\n" + other_payload


@pytest.mark.parametrize("field", ["row", "attempts", "source_tokens", "new_tokens"])
@pytest.mark.fault(35)
def test_an_infinite_number_is_damage(field: str) -> None:
    with pytest.raises(StateFileDamagedError, match="a row is incomplete"):
        parts.decode(with_field(field, float("inf")))


@pytest.mark.parametrize("row", [-1, 1 << 63, 1 << 64])
@pytest.mark.fault(35)
def test_an_impossible_row_number_is_damage(row: int) -> None:
    with pytest.raises(StateFileDamagedError, match="the order of its rows"):
        parts.decode(with_field("row", row))


def test_names_sort_like_numbers() -> None:
    assert (parts.shard_name(12), parts.part_name(3)) == ("s0000012", "p00003")
    assert parts.PART_NAME.fullmatch(parts.part_name(123456))
    assert not parts.PART_NAME.fullmatch(".tmp-p00003-x")
