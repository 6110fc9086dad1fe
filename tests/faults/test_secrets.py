"""Secrets stay out of messages, logs, tracebacks and files; nothing that a terminal obeys gets into any of them."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from campaigns import stub

from hymt_batch import sanitize
from hymt_batch.source import hub
from jobs import doctor, translate
from jobs.__main__ import main

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
OTHER = "s3cr3t-value-of-another-kind"
EVIL = "\x1b[31mX\x1b]0;title\x07\x9b2J\x85\u202e\u2066\u200f\x7f\u2028"
OBEYED = frozenset(chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))) | frozenset(
    "\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", OTHER)
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


@pytest.fixture
def upper(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hymt-batch translate` with the stub model."""
    work = partial(translate.translate, prepare_model=stub.prepare, decode_batch=stub.decode_batch)
    monkeypatch.setattr(translate, "run", partial(translate.run, translate=work))


def obeyed(text: str) -> list[str]:
    return sorted({hex(ord(character)) for character in text if character in OBEYED})


def holders(folder: Path, *secrets: str) -> list[str]:
    """Files below a folder that hold a secret, in their names or their bytes."""
    return [
        str(path)
        for path in folder.rglob("*")
        if any(one in path.name or (path.is_file() and one.encode() in path.read_bytes()) for one in secrets)
    ]


# what is shown


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
def test_secrets_are_blanked_and_nothing_else(text: str, expected: str) -> None:
    assert sanitize.redact(text) == expected


@pytest.mark.fault(82)
def test_an_empty_or_short_variable_blanks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "a")
    assert sanitize.redact("a banana") == "a banana"


@pytest.mark.fault(55, 83)
def test_no_character_that_a_terminal_obeys_is_shown_and_scripts_stay() -> None:
    for code in (*range(0x3100), 0xFEFF, *range(0xFFF0, 0x10000), 0x1D173, *range(0xE0000, 0xE0080)):
        assert not obeyed(sanitize.escape_control_chars(chr(code)).strip("\n\t")), hex(code)
    for text in ("é 中文 العربية हिन्दी", "tab\there\nline", "\u3000 \xa0"):
        assert sanitize.escape_control_chars(text) == text
    assert json.loads('"' + sanitize.escape_control_chars("\x9b\u202e") + '"') == "\x9b\u202e"
    sanitize.escape_control_chars("\udcff").encode()


@pytest.mark.fault(82, 83)
def test_log_records_of_any_library_are_shown_so(caplog: pytest.LogCaptureFixture) -> None:
    sanitize.sanitize_logs()
    log = logging.getLogger("another.library")
    log.warning("loading %s with %s", EVIL, TOKEN)
    try:
        raise RuntimeError(f"{EVIL} {OTHER}")
    except RuntimeError:
        log.exception("failed")
    assert not obeyed(caplog.text)
    assert TOKEN not in caplog.text
    assert OTHER not in caplog.text
    assert caplog.text.count("***") == 2


# jobs


@pytest.mark.fault(82)
@pytest.mark.parametrize(
    ("job", "words"),
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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], job: str, words: list[str]
) -> None:
    more = [f"output_dir={tmp_path}"] if job in ("translate", "plan", "status", "verify") else []
    more += ["tgt_lang=fr", "model=demo"] if job in ("translate", "plan") else []
    assert main([job, *more, *words]) in (2, 6)
    told = "".join(capsys.readouterr())
    assert told
    assert TOKEN not in told
    assert OTHER not in told
    assert not holders(tmp_path, TOKEN, OTHER)


@pytest.mark.fault(82)
def test_a_finished_job_has_its_arguments_in_the_log_without_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, upper: None
) -> None:
    (tmp_path / "in.txt").write_text("rain\n")
    words = [f"source.path={tmp_path / 'in.txt'}", f"output_dir={tmp_path}", "name=out", "tgt_lang=fr", "model=demo"]
    words += [f"source.revision={TOKEN}", f"source.subset={OTHER}", "launch.progress=log"]
    monkeypatch.setattr("sys.argv", ["hymt-batch", "translate", *words])
    assert main() == 0
    told = "".join(capsys.readouterr())
    assert "source.revision=***" in told
    assert TOKEN not in told
    assert OTHER not in told
    (log,) = (tmp_path / "out" / "logs").iterdir()
    assert "source.revision=***" in log.read_text()
    assert not holders(tmp_path, TOKEN, OTHER)


@pytest.mark.fault(82)
def test_a_bug_tells_its_traceback_without_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError(f"GET https://me:{OTHER}@hub/x with {TOKEN} {EVIL}")

    monkeypatch.setattr(translate, "run", broken)
    assert (
        main(["translate", f"output_dir={tmp_path}", "source.path=demo:bulletins", "tgt_lang=fr", "model=demo"]) == 70
    )
    told = capsys.readouterr().err
    assert "in broken" in told
    assert TOKEN not in told
    assert OTHER not in told
    assert not obeyed(told)


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
    place = [f"output_dir={tmp_path}", "name=out"]
    words = [f"source.path={source}", *place, "tgt_lang=fr", "model=demo", "launch.progress=log", "launch.samples=9"]
    words += [f"write.translation_field=t{odd}", "check.max_error_rate=1"]
    assert main(["translate", *words]) == 0
    (log,) = (tmp_path / "out" / "logs").iterdir()
    told = "".join(capsys.readouterr())
    assert "RAIN" in told
    assert not obeyed(told + log.read_text(encoding="utf-8"))
    (made,) = (tmp_path / "out" / "translated").glob("*.txt")
    made.write_text("damaged")
    assert main(["verify", *place]) == 7
    assert main(["status", *place]) in (0, 7, 8)
    assert not obeyed("".join(capsys.readouterr()))


@pytest.mark.fault(55, 83)
@pytest.mark.parametrize(
    "words",
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
def test_hostile_words_are_told_back_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["translate", f"output_dir={tmp_path}", "tgt_lang=fr", "model=demo", *words]) in (2, 6)
    told = "".join(capsys.readouterr())
    assert told
    assert not obeyed(told)


@pytest.mark.fault(83)
def test_no_source_text_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str], upper: None) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"text": "private-words here"}\n{"text": 5, "x": "private-words"}\nprivate-words\n'
    )
    words = [f"source.path={tmp_path / 'in.jsonl'}", f"output_dir={tmp_path}", "name=out", "tgt_lang=fr", "model=demo"]
    words += ["write.raw_errors=false"]
    assert main(["translate", *words, "launch.progress=log", "launch.samples=0", "check.max_error_rate=1"]) == 0
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
def test_the_doctor_shows_hostile_names_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hymt_batch.doctor.finding import Finding, Level

    print(doctor.render([Finding("check", Level.WARN, f"seen {EVIL}", f"fix {EVIL}")]))
    assert not obeyed(capsys.readouterr().out)
