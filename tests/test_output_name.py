"""write.name: how translated files are named, also on a finished job."""

from __future__ import annotations

from pathlib import Path

import pytest

from hymt_batch import config
from hymt_batch.errors import ConfigError
from hymt_batch.write import output_name
from jobs import verify
from tests.fakes.job import Job


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("{stem}{ext}", "docs/a.b.txt.gz", "docs/a.b.txt.gz"),
        ("{stem}.{tgt}{ext}", "docs/a.b.txt.gz", "docs/a.b.de.txt.gz"),
        ("{stem}.{src}-{tgt}{ext}", "guide.srt", "guide.en-de.srt"),
        ("{tgt}/{stem}{ext}", "docs/guide.md", "docs/de/guide.md"),
        ("{tgt}{ext}", "locales/en.json", "locales/de.json"),
        ("{stem}_{tgt}{ext}", "README", "README_de"),
        ("{stem}.{tgt}{ext}", "{tgt}.txt", "{tgt}.de.txt"),  # a name is no template
    ],
)
def test_a_template_keeps_folder_and_extension(template: str, name: str, expected: str) -> None:
    output_name.check(template)
    assert output_name.make(template, name, "en", "de") == expected


@pytest.mark.parametrize(
    "template",
    ["", "{stem}", "{stem}.{lang}{ext}", "{stem!r}{ext}", "../{stem}{ext}", "/x/{stem}{ext}", "a//{ext}", "{"],
)
def test_another_template_is_refused_with_one_that_works(template: str) -> None:
    with pytest.raises(ConfigError, match=r"write\.name=.*Set write\.name='\{stem\}\.\{tgt\}\{ext\}'"):
        output_name.check(template)


def test_a_name_with_the_source_language_needs_one() -> None:
    words = ["source.path=in.txt", "tgt_lang=fr", "write.name={src}-{stem}{ext}"]
    with pytest.raises(ConfigError, match="Set src_lang=en"):
        config.load("translate", words)
    assert config.load("translate", [*words, "src_lang=en"]).write.name == "{src}-{stem}{ext}"


def test_the_files_of_a_finished_job_get_other_names_and_nothing_is_decoded(tmp_path: Path) -> None:
    source, translated = tmp_path / "in", tmp_path / "out" / "j" / "translated"
    source.mkdir()
    for name in ("a.txt", "b.jsonl"):
        (source / name).write_text('{"text": "one"}\n' if name.endswith("l") else "one\n")
    job = Job(tmp_path)

    def names() -> list[str]:
        return sorted(str(path.relative_to(translated)) for path in translated.rglob("*") if path.is_file())

    words = [f"source.path={source}", "name=j"]
    job(*words, "write.name={stem}.{tgt}{ext}")
    assert (names(), job.decoded) == (["a.fr.txt", "b.fr.jsonl"], 2)
    contents = (translated / "a.fr.txt").read_bytes()
    job(*words, "write.name={tgt}/{stem}{ext}")
    assert (names(), job.decoded) == (["fr/a.txt", "fr/b.jsonl"], 2)
    assert (translated / "fr" / "a.txt").read_bytes() == contents
    assert verify.verify(tmp_path / "out" / "j").exit_code == 0
    job(*words)
    assert (names(), job.decoded) == (["a.txt", "b.jsonl"], 2)


def test_outputs_that_a_template_gives_one_name_are_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("one\n")
    job = Job(tmp_path)
    with pytest.raises(ConfigError, match=r"Put \{stem\} into write\.name"):
        job(f"source.path=[{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}]", "write.name={tgt}{ext}")
    assert job.decoded == 0
