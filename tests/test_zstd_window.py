"""A .zst file is decompressed with the window that it asks for, up to source.max_window, and never in part."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.formats import zstd_frame
from hymt_batch.source import discovery
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents

zstd: Any = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

MIB = 1 << 20
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\0\0\0hello"


def frame(data: bytes, window_log: int, *, size_is_known: bool = False) -> bytes:
    """Compress data as one frame; without its size, as from a pipe, the frame asks for the whole window."""
    options = {
        zstd.CompressionParameter.window_log: window_log,
        zstd.CompressionParameter.content_size_flag: int(size_is_known),
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    compressor = zstd.ZstdCompressor(options=options)
    if size_is_known:
        compressor.set_pledged_input_size(len(data))
    return bytes(compressor.compress(data) + compressor.flush())


def texts(path: Path, **settings: Any) -> list[str | None]:
    config = SourceConfig(path=str(path), **settings)
    (input,) = discovery.find_inputs(config)
    return [document.text for document, _ in read_documents(input, config)]


@pytest.mark.parametrize("window_log", [10, 20, 27, 28, 31])
def test_the_window_is_read_from_the_header(window_log: int) -> None:
    assert zstd_frame.window_size(frame(b"a\n", window_log)) == 1 << window_log


@pytest.mark.parametrize("size", [1, 255, 256, 65791, 65792, 300_000])
def test_a_frame_of_a_single_segment_holds_its_whole_content(size: int) -> None:
    packed = frame(b"a" * size, 30, size_is_known=True)
    assert packed[4] & 0x20
    assert zstd_frame.window_size(packed[: zstd_frame.HEADER_BYTES]) == size


def test_what_is_no_frame_has_no_window() -> None:
    assert [zstd_frame.window_size(data) for data in (b"", b"\x28\xb5\x2f\xfd", SKIPPABLE, b"text of any kind")] == [
        0
    ] * 4


def test_a_window_of_2_gib_is_decompressed_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(frame(b"one\ntwo\n", 31))
    with caplog.at_level(logging.INFO):
        assert texts(path) == ["one", "two"]
    assert f"{path} needs up to window=2048 MiB of memory while it is read" in caplog.text


def test_a_usual_window_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(frame(b"one\n", 27))
    with caplog.at_level(logging.INFO):
        assert texts(path) == ["one"]
    assert caplog.text == ""


def test_a_window_beyond_the_limit_is_refused_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(frame(b"one\n", 10) + frame(b"two\n", 28))  # also in a later frame
    assert texts(path, max_window="256MiB") == ["one", "two"]
    with pytest.raises(PreflightError) as refused:
        texts(path, max_window="255MiB")
    assert refused.value.exit_code == 6
    assert f"Set source.max_window={256 * MIB}, or decompress it first: zstd --long=28 -d {path}" in str(refused.value)


def test_a_window_that_no_library_holds_is_refused_with_its_cause(tmp_path: Path) -> None:
    packed = bytearray(frame(b"one\n", 31))
    packed[5] += 1  # the window is an eighth larger
    path = tmp_path / "a.txt.zst"
    path.write_bytes(packed)
    with pytest.raises(PreflightError, match=r"more than the 2147483648 that zstd and its libraries hold") as refused:
        texts(path)
    assert "--long=31" in refused.value.fix
    assert " -d " not in str(refused.value)  # the program refuses --long=32


def test_frames_follow_each_other_with_skippable_ones_between(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(SKIPPABLE + frame(b"one\ntw", 31) + SKIPPABLE + SKIPPABLE + frame(b"o\n", 10, size_is_known=True))
    assert texts(path) == ["one", "two"]


@pytest.mark.parametrize("window_log", [20, 31])
def test_a_truncated_frame_is_refused_wherever_it_ends(tmp_path: Path, window_log: int) -> None:
    whole = frame(b"".join(b"row %d\n" % row for row in range(50)), window_log)
    path = tmp_path / "a.txt.zst"
    for data in [whole[:size] for size in range(len(whole))] + [whole + whole[:size] for size in range(1, 8)]:
        path.write_bytes(data)
        with pytest.raises(PreflightError, match=r"is truncated or damaged as a \.zst file"):
            texts(path)


def test_a_damaged_frame_is_refused(tmp_path: Path) -> None:
    options = {zstd.CompressionParameter.checksum_flag: 1}
    packed = bytearray(zstd.compress(b"".join(b"row %d\n" % row for row in range(50)), options=options))
    packed[-1] ^= 1
    path = tmp_path / "a.txt.zst"
    path.write_bytes(packed)
    with pytest.raises(PreflightError, match=r"is truncated or damaged as a \.zst file"):
        texts(path)


@pytest.mark.parametrize("size", ["0", "100", "3GiB", "much"])
def test_a_size_that_is_no_window_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match=r"source\.max_window"):
        SourceConfig(path="a", max_window=size)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the library is in the standard library")
def test_an_environment_without_the_library_reads_with_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(frame(b"one\n", 20))
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not (Path(folder) / "backports").is_dir()])
    monkeypatch.delitem(sys.modules, "backports.zstd")
    monkeypatch.delitem(sys.modules, "backports")
    assert not zstd_frame.is_available()
    assert texts(path) == ["one"]
