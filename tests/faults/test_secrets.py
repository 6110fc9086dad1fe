"""Secrets stay out of messages, logs, tracebacks and files, and so do terminal control characters."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import sanitize
from hymt_batch.source import hub
from jobs import doctor, translate
from jobs.__main__ import main
from tests.fakes import job as fake_job

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
OTHER = "s3cr3t-value-of-another-kind"
EVIL = "\x1b[31mX\x1b]0;title\x07\x9b2J\x85\u202e\u2066\u200f\x7f\u2028"
CONTROL_CHARACTERS = frozenset(chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))) | frozenset(
    "\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", OTHER)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.fixture
def upper() -> Iterator[None]:
    """`hymt-batch translate` with the stub model."""
    with fake_job.installed():
        yield


def control_characters(text: str) -> list[str]:
    return sorted({hex(ord(character)) for character in text if character in CONTROL_CHARACTERS})


def files_with_secret(folder: Path, *secrets: str) -> list[str]:
    """Return the files below a folder that contain a secret in their name or their bytes."""
    return [
        str(path)
        for path in folder.rglob("*")
        if any(secret in path.name or (path.is_file() and secret.encode() in path.read_bytes()) for secret in secrets)
    ]


# messages and logs


@pytest.mark.fault(82)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"model.path={TOKEN}", "model.path=***"),
        (f"a {TOKEN}/b", "a ***/b"),
        (f"'{TOKEN}'", "'***'"),
        (f"x={OTHER}!", "x=***!"),
        ("https://me:pass-word@host/a", "https://***@host/a"),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: Bearer ***"),
        ("hf_short and hf_hub and self_AbCdEfGhIjKlMnOpQrSt", "hf_short and hf_hub and self_AbCdEfGhIjKlMnOpQrSt"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("source.path=in.txt", "source.path=in.txt"),
    ],
)
def test_secrets_are_redacted_and_nothing_else(text: str, expected: str) -> None:
    assert sanitize.redact(text) == expected


@pytest.mark.fault(82)
def test_an_empty_or_short_variable_redacts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "a")
    assert sanitize.redact("a banana") == "a banana"


@pytest.mark.fault(55, 83)
def test_no_terminal_control_character_is_shown_and_all_scripts_stay_readable() -> None:
    for code in (*range(0x3100), 0xFEFF, *range(0xFFF0, 0x10000), 0x1D173, *range(0xE0000, 0xE0080)):
        assert not control_characters(sanitize.escape_control_chars(chr(code)).strip("\n\t")), hex(code)
    for text in ("é 中文 العربية हिन्दी", "tab\there\nline", "\u3000 \xa0"):
        assert sanitize.escape_control_chars(text) == text
    assert json.loads('"' + sanitize.escape_control_chars("\x9b\u202e") + '"') == "\x9b\u202e"
    sanitize.escape_control_chars("\udcff").encode()


@pytest.mark.fault(82, 83)
def test_log_records_of_any_library_are_sanitized(caplog: pytest.LogCaptureFixture) -> None:
    sanitize.sanitize_logs()
    log = logging.getLogger("another.library")
    log.warning("loading %s with %s", EVIL, TOKEN)
    try:
        raise RuntimeError(f"{EVIL} {OTHER}")
    except RuntimeError:
        log.exception("failed")
    assert not control_characters(caplog.text)
    assert TOKEN not in caplog.text
    assert OTHER not in caplog.text
    assert caplog.text.count("***") == 2


# jobs


@pytest.mark.fault(82)
@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("translate", [f"source.path={TOKEN}.txt"]),
        ("translate", [f"source.path=https://me:{OTHER}@host/in.txt"]),
        ("translate", ["source.path=demo:bulletins", f"model.path={TOKEN}"]),
        ("translate", ["source.path=demo:bulletins", f"model.path=./{TOKEN}/model"]),
        ("translate", [f"source.{TOKEN}=1"]),
        ("translate", [f"{OTHER}"]),
        ("translate", ["source.path=demo:bulletins", f"model.sha256={TOKEN}"]),
        ("plan", [f"source.path={TOKEN}.txt"]),
        ("status", [f"name={TOKEN}"]),
        ("verify", [f"name={TOKEN}"]),
        (TOKEN, []),
    ],
)
def test_a_secret_on_the_command_line_is_in_no_message_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], job: str, arguments: list[str]
) -> None:
    fixed = [f"output_dir={tmp_path}"] if job in ("translate", "plan", "status", "verify") else []
    fixed += ["tgt_lang=fr", "model=demo"] if job in ("translate", "plan") else []
    assert main([job, *fixed, *arguments]) in (2, 6)
    printed = "".join(capsys.readouterr())
    assert printed
    assert TOKEN not in printed
    assert OTHER not in printed
    assert not files_with_secret(tmp_path, TOKEN, OTHER)


@pytest.mark.fault(82)
def test_a_finished_job_has_its_arguments_in_the_log_without_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, upper: None
) -> None:
    (tmp_path / "in.txt").write_text("rain\n")
    arguments = [
        f"source.path={tmp_path / 'in.txt'}",
        f"output_dir={tmp_path}",
        "name=out",
        "tgt_lang=fr",
        "model=demo",
    ]
    arguments += [f"source.revision={TOKEN}", f"source.subset={OTHER}", "launch.progress=log"]
    monkeypatch.setattr("sys.argv", ["hymt-batch", "translate", *arguments])
    assert main() == 0
    printed = "".join(capsys.readouterr())
    assert "source.revision=***" in printed
    assert TOKEN not in printed
    assert OTHER not in printed
    (log,) = (tmp_path / "out" / "logs").iterdir()
    assert "source.revision=***" in log.read_text()
    assert not files_with_secret(tmp_path, TOKEN, OTHER)


@pytest.mark.fault(82)
def test_the_traceback_of_a_bug_has_no_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError(f"GET https://me:{OTHER}@hub/x with {TOKEN} {EVIL}")

    monkeypatch.setattr(translate, "run", broken)
    assert (
        main(["translate", f"output_dir={tmp_path}", "source.path=demo:bulletins", "tgt_lang=fr", "model=demo"]) == 70
    )
    printed = capsys.readouterr().err
    assert "in broken" in printed
    assert TOKEN not in printed
    assert OTHER not in printed
    assert not control_characters(printed)


@pytest.mark.fault(82)
def test_no_process_has_a_secret_among_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def runs(command: Any, **settings: Any) -> subprocess.CompletedProcess[bytes]:
        seen.append(command)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(hub.subprocess, "run", runs)
    hub.fetch_in_subprocess("org/data", None, "train", None, tmp_path)
    assert seen
    assert TOKEN not in str(seen)


@pytest.mark.fault(55, 83)
def test_hostile_names_reach_no_terminal_and_no_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], upper: None
) -> None:
    source, odd = tmp_path / "in", "\x1b[31mX\x1b]0;t\x07\x9b2J\u202e"
    source.mkdir()
    (source / f"a{odd}.txt").write_bytes(b"rain \x1b[31m\xc2\x9b\n\xff\n")
    (source / f"b{odd}.jsonl").write_text(json.dumps({"text": "wind", f"f{odd}": 1}) + '\n{"x": 1}\n')
    output = [f"output_dir={tmp_path}", "name=out"]
    arguments = [
        f"source.path={source}",
        *output,
        "tgt_lang=fr",
        "model=demo",
        "launch.progress=log",
        "launch.samples=9",
    ]
    arguments += [f"write.translation_field=t{odd}", "check.max_error_rate=1"]
    assert main(["translate", *arguments]) == 0
    (log,) = (tmp_path / "out" / "logs").iterdir()
    printed = "".join(capsys.readouterr())
    assert "RAIN" in printed
    assert not control_characters(printed + log.read_text(encoding="utf-8"))
    (translated,) = (tmp_path / "out" / "translated").glob("*.txt")
    translated.write_text("damaged")
    assert main(["verify", *output]) == 7
    assert main(["status", *output]) in (0, 7, 8)
    assert not control_characters("".join(capsys.readouterr()))


@pytest.mark.fault(55, 83)
@pytest.mark.parametrize(
    "arguments",
    [
        [f"source.path=no{EVIL}"],
        ["source.path=demo:bulletins", f"model.path=m{EVIL}"],
        ["source.path=demo:bulletins", f"model.path=m{EVIL}/x"],
        ["source.path=demo:bulletins", f"name=n{EVIL}"],
        ["source.path=demo:bulletins", f"tgt_lang=fr{EVIL}"],
        ["source.path=demo:bulletins", f"preset=p{EVIL}"],
        ["source.path=demo:bulletins", f"decode.engine=p{EVIL}"],
        ["source.path=demo:bulletins", f"seed=1{EVIL}"],
        [f"key{EVIL}=1"],
        [f"word{EVIL}"],
        [f"--flag{EVIL}"],
    ],
)
def test_hostile_arguments_are_shown_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["translate", f"output_dir={tmp_path}", "tgt_lang=fr", "model=demo", *arguments]) in (2, 6)
    printed = "".join(capsys.readouterr())
    assert printed
    assert not control_characters(printed)


@pytest.mark.fault(83)
def test_no_source_text_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str], upper: None) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"text": "private-words here"}\n{"text": 5, "x": "private-words"}\nprivate-words\n'
    )
    arguments = [
        f"source.path={tmp_path / 'in.jsonl'}",
        f"output_dir={tmp_path}",
        "name=out",
        "tgt_lang=fr",
        "model=demo",
    ]
    arguments += ["write.raw_errors=false"]
    assert main(["translate", *arguments, "launch.progress=log", "launch.samples=0", "check.max_error_rate=1"]) == 0
    (log,) = (tmp_path / "out" / "logs").iterdir()
    (errors,) = (tmp_path / "out" / "errors").iterdir()
    for text in (
        *capsys.readouterr(),
        log.read_text(),
        errors.read_text(),
        (tmp_path / "out" / "manifest.json").read_text(),
    ):
        assert "private-words" not in text.lower()


@pytest.mark.fault(83)
def test_the_doctor_shows_hostile_names_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hymt_batch.doctor.finding import Finding, Level

    print(doctor.render([Finding("check", Level.WARN, f"seen {EVIL}", f"fix {EVIL}")]))
    assert not control_characters(capsys.readouterr().out)
