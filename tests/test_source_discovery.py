"""Finding inputs: existing names are used literally, and collisions and unusable names are refused before reading."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.errors import ConfigError
from hymt_batch.source import discovery
from hymt_batch.source.found_inputs import FoundInputs
from hymt_batch.source.input_names import OutputNames
from hymt_batch.source.settings import SourceConfig, SourceFormat


def find(path: Any, out_format: str = "input", **settings: Any) -> FoundInputs:
    return discovery.find_inputs(SourceConfig(path=path, **settings), None, OutputNames(out_format))


def write(path: Path, text: str = "a\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "name", ["a[1].txt", "x y.txt", "a::b.txt", "a=b, (1).txt", "语料 *.txt", "-.txt", "demo:x.txt"]
)
def test_an_existing_name_is_used_literally(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    write(tmp_path / "a1.txt")
    (input,) = find(path)
    assert (input.rel, input.out_rel, input.path, input.format) == (name, name, path, "text")


def test_a_folder_gives_its_files_sorted_with_relative_paths(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.txt.gz", "a/c.TSV", ".hidden.txt", ".git/x.txt", "a/.x/y.txt"):
        write(tmp_path / name)
    inputs = find(str(tmp_path))
    assert [(input.rel, input.format, input.compression) for input in inputs] == [
        ("a/c.TSV", "tsv", ""),
        ("a/z.txt.gz", "text", "gz"),
        ("b.jsonl", "jsonl", ""),
    ]
    assert len({input.file_id for input in inputs}) == 3
    assert all(len(input.file_id) == 16 for input in inputs)


def test_several_sources_keep_their_order_and_globs_their_folders(tmp_path: Path) -> None:
    write(tmp_path / "z.txt")
    write(tmp_path / "g/1/a.txt")
    write(tmp_path / "g/2/a.txt")
    inputs = find([str(tmp_path / "z.txt"), str(tmp_path / "g" / "**" / "*.txt")])
    assert [input.rel for input in inputs] == ["z.txt", "1/a.txt", "2/a.txt"]


def test_a_folder_that_cannot_be_listed_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "closed/a.txt")
    real_scandir = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("closed"):  # simulated, because the tests may run as root, which can list every folder
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ConfigError, match=r"closed' cannot be listed \(Permission denied\)"):
        find(str(tmp_path))


def test_output_names_follow_the_format(tmp_path: Path) -> None:
    for name in ("a.txt.gz", "b.ndjson", "c.parquet", "chapter.1", "chapter.2"):
        write(tmp_path / name)
    paths = [str(tmp_path / name) for name in sorted(os.listdir(tmp_path))]
    assert [input.out_rel for input in find(paths, "jsonl")] == [
        "a.jsonl.gz",
        "b.ndjson",
        "c.jsonl",
        "chapter.1.jsonl",
        "chapter.2.jsonl",
    ]
    assert [input.out_rel for input in find(paths[:2], "parquet")] == ["a.parquet", "b.parquet"]
    assert [input.out_rel for input in find(paths)] == [input.rel for input in find(paths)]


def test_unknown_extensions_are_skipped_in_folders_with_one_warning_but_read_when_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.txt", "b.log", "corpus.en"):
        write(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        found = find(str(tmp_path))
    assert [input.rel for input in found] == ["a.txt"]
    assert [file.rel for file in found.skipped] == ["b.log", "corpus.en"]
    (record,) = caplog.records
    assert "b.log" in record.getMessage() and "source.format=text" in record.getMessage()
    assert [input.rel for input in find(str(tmp_path), format=SourceFormat.text)] == ["a.txt", "b.log", "corpus.en"]
    assert [input.rel for input in find(str(tmp_path), pattern="*.log")] == ["b.log"]
    assert find(str(tmp_path / "b.log"))[0].format == "text"
    assert find(str(tmp_path / "*.en"))[0].format == "text"


def test_files_of_unread_formats_are_refused_where_a_path_names_them_and_skipped_where_they_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("in/a.txt", "in/film.ass", "in/deep/app.xlf", "in/c.mdx", "subs/film.ass"):
        write(tmp_path / name)
    for source in (str(tmp_path / "in"), str(tmp_path / "in/**/*.*"), [str(tmp_path / "in"), str(tmp_path / "subs")]):
        caplog.clear()
        found = find(source)
        assert [input.rel for input in found] == ["a.txt"]
        assert {file.rel for file in found.skipped} == {"c.mdx", "deep/app.xlf", "film.ass"}
        (record,) = caplog.records
        assert ".ass" in record.getMessage() and "source.format=text" not in record.getMessage()
    assert len(find(str(tmp_path / "in"), pattern=["*.ass", "*.txt"])) == 1
    for source in ([str(tmp_path / "in/a.txt"), str(tmp_path / "in/film.ass")], str(tmp_path / "in/film.ass")):
        with pytest.raises(
            ConfigError, match=r"film\.ass' is a file of SubStation subtitles, which is not read\. .*film\.txt"
        ):
            find(source)
    for source in (str(tmp_path / "subs"), str(tmp_path / "subs/*.ass")):
        with pytest.raises(ConfigError, match=r"1 \.ass\. 'film\.ass' is .*film\.txt") as caught:
            find(source)
        assert "source.format=text" not in str(caught.value)
    given = find(str(tmp_path / "in"), format=SourceFormat.text)
    assert {input.rel for input in given} == {"a.txt", "c.mdx", "deep/app.xlf", "film.ass"}


@pytest.mark.parametrize(
    ("names", "out_format"),
    [
        (("x/a.txt", "y/a.txt"), "input"),
        (("x/A.txt", "y/a.txt"), "input"),
        (("x/caf\u00e9.txt", "y/cafe\u0301.txt"), "input"),
        (("x/a.txt", "y/a.csv"), "jsonl"),
    ],
)
@pytest.mark.fault(80)
def test_two_inputs_for_one_output_are_refused_by_name(tmp_path: Path, names: tuple[str, str], out_format: str) -> None:
    paths = [write(tmp_path / name) for name in names]
    with pytest.raises(ConfigError) as caught:
        find(paths, out_format)
    assert all(repr(path) in str(caught.value) for path in paths)


def test_an_output_that_must_be_a_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x/a.txt/b.txt")
    with pytest.raises(ConfigError, match="must be a folder"):
        find([str(tmp_path / "x"), write(tmp_path / "a.txt")])


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match="List it once"):
        find([path, path])


@pytest.mark.parametrize("name", ["a\nb.txt", "n" * 245 + ".txt", ".hymt", os.fsdecode(b"\xff.txt")])
@pytest.mark.fault(80)
def test_names_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"a\n")
    with pytest.raises(ConfigError, match="Rename the file"):
        find(str(path))


def test_the_error_for_a_missing_path_suggests_similar_names(tmp_path: Path) -> None:
    write(tmp_path / "corpus.txt")
    with pytest.raises(ConfigError, match=r"does not exist\. Similar names: '.*corpus\.txt'"):
        find(str(tmp_path / "corpsu.txt"))
    with pytest.raises(ConfigError, match=r"No name in .* is similar: it has '.*corpus\.txt'\. Set source\.path"):
        find(str(tmp_path / "zzz"))
    with pytest.raises(ConfigError, match="matches no file"):
        find(str(tmp_path / "*.csv"))


def test_a_mistyped_relative_path_is_not_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data/in.txt")
    monkeypatch.chdir(tmp_path)
    for path in ("data/inn", "dta/in.txt"):
        with pytest.raises(ConfigError, match="does not exist"):
            find(path)


def test_folders_without_anything_to_translate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no file to translate"):
        find(str(tmp_path))
    write(tmp_path / "b.log")
    with pytest.raises(ConfigError, match=r"b\.log.*source\.format=text"):
        find(str(tmp_path))
    with pytest.raises(ConfigError, match=r"source\.pattern=\*\.md"):
        find(str(tmp_path), pattern="*.md")


@pytest.mark.fault(80)
def test_links_out_of_the_folder_need_follow_symlinks(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside/a.txt")
    write(tmp_path / "in/b.txt")
    (tmp_path / "in/link.txt").symlink_to(outside)
    with pytest.raises(ConfigError, match=r"source\.follow_symlinks=true"):
        find(str(tmp_path / "in"))
    assert [input.rel for input in find(str(tmp_path / "in"), follow_symlinks=True)] == ["b.txt", "link.txt"]


@pytest.mark.fault(80)
def test_a_cycle_of_links_between_folders_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "in/a/b.txt")
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    assert [input.rel for input in find(str(tmp_path / "in"), follow_symlinks=True)] == ["a/b.txt"]
    assert [input.rel for input in find(str(tmp_path / "in"))] == ["a/b.txt"]


@pytest.mark.fault(80)
def test_fifos_and_broken_links_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ConfigError, match=r"source\.path=-"):
        find(str(tmp_path))
    os.unlink(tmp_path / "pipe.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    with pytest.raises(ConfigError, match=r"gone\.txt"):
        find(str(tmp_path))


def test_output_folders_of_jobs_below_the_folder_are_not_inputs(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    write(tmp_path / "outputs/night/translated/a.txt")
    (tmp_path / "outputs/night/.hymt").mkdir()
    assert [input.rel for input in find(str(tmp_path))] == ["a.txt"]


def make_job(folder: Path) -> Path:
    for name in ("translated/data/a.txt", "errors/data/a.txt.errors.jsonl", "set_aside/data/a.txt.1234", "logs/1.log"):
        write(folder / name)
    (folder / ".hymt").mkdir()
    return folder


@pytest.mark.parametrize("where", ["outputs/g", "outputs/sweep/tgt_lang=de", "elsewhere/renamed"])
def test_no_glob_list_folder_or_link_takes_anything_from_the_folder_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data/a.txt")
    job = make_job(tmp_path / where)
    (tmp_path / "link").symlink_to(job / "translated")
    top = where.partition("/")[0]
    for source in (
        "**/*.txt",
        "**/*",
        ["data", top],
        ["data", where],
        ["data", f"{where}/translated"],
        ["data/a.txt", f"{where}/translated/data/a.txt", f"{where}/errors/data/a.txt.errors.jsonl"],
        ["data/a.txt", "link/data/a.txt"],
        ["data", "link"],
    ):
        inputs = find(source)
        assert [os.path.realpath(input.path) for input in inputs] == [str(tmp_path / "data/a.txt")], source
        assert not inputs.skipped
    found = find(".", follow_symlinks=True)
    assert [input.rel for input in found] == ["data/a.txt"]


def test_only_translations_of_another_job_that_a_path_alone_names_are_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_job(tmp_path / "outputs/g")
    for source in ("outputs/g/translated", "outputs/g/translated/data", "outputs/g/translated/data/a.txt"):
        assert [os.path.basename(input.rel) for input in find(source)] == ["a.txt"]
        with pytest.raises(ConfigError, match=r"the output folder of this job, so .* Set name=ANOTHER"):
            discovery.find_inputs(SourceConfig(path=source), folder=tmp_path / "outputs/g")
    for source in ("outputs/g", "outputs/g/errors", "outputs/g/set_aside/data/a.txt.1234", "outputs/g/logs/1.log"):
        with pytest.raises(ConfigError, match=r"source\.path=outputs/g/translated"):
            find(source)
    for source in ("outputs", "outputs/g/translated/**/*.txt", "outputs/*/translated/data/a.txt"):
        with pytest.raises(
            ConfigError, match=r"only to the folders of jobs, such as outputs/g\. .*outputs/g/translated"
        ):
            find(source)


def test_the_folder_of_the_job_itself_is_no_input_before_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data/a.txt")
    write(tmp_path / "b.txt")
    found = discovery.find_inputs(SourceConfig(path="**/*.txt"), folder=tmp_path / "data")
    assert [input.rel for input in found] == ["b.txt"]
    with pytest.raises(ConfigError, match="so the job would read what it writes"):
        discovery.find_inputs(SourceConfig(path="data"), folder=Path("data"))


def test_what_a_killed_run_stored_is_not_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt")
    spooled = write(tmp_path / f"outputs/.spool-{'0' * 32}/stdin.txt")
    for source in ("**/*.txt", ".", ["a.txt", spooled], "outputs/.spool-*/*.txt"):
        try:
            assert [input.rel for input in find(source)] == ["a.txt"]
        except ConfigError as error:
            assert source == "outputs/.spool-*/*.txt" and "only to the folders of jobs" in str(error)


def test_a_saved_dataset_is_one_parquet_input_per_split(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(tmp_path / "one"))
    both = {"train": datasets.Dataset.from_dict({"text": ["a"]}), "test": datasets.Dataset.from_dict({"text": []})}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "two"))
    assert [(input.rel, input.format, input.dataset) for input in find(str(tmp_path / "one"))] == [
        ("one.parquet", "parquet", "arrow")
    ]
    assert [input.rel for input in find(str(tmp_path / "two"))] == ["two/test.parquet", "two/train.parquet"]
    assert [input.rel for input in find(str(tmp_path / "two"), split="train")] == ["two/train.parquet"]
    assert [input.out_rel for input in find(str(tmp_path), "jsonl")] == [
        "one.jsonl",
        "two/test.jsonl",
        "two/train.jsonl",
    ]
    with pytest.raises(ConfigError, match="Its splits are"):
        find(str(tmp_path / "two"), split="dev")


def test_ignored_settings_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    find(write(tmp_path / "a.txt"), split="train", pattern="*.txt")
    assert [record.getMessage().split("=")[0] for record in caplog.records] == ["source.pattern", "source.split"]


def test_field_and_column_settings_are_logged_as_ignored_for_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"text_field": "body", "tgt_lang_field": "to", "delimiter": ";", "header": False}
    path = write(tmp_path / "a.txt")
    find(path, **settings)
    logged = [record.getMessage().split(" ")[0] for record in caplog.records]
    assert logged == ["source.text_field=body", "source.tgt_lang_field=to", "source.header=false", "source.delimiter=;"]
    caplog.clear()
    find([path, write(tmp_path / "b.csv")], **settings)
    assert not caplog.records


def test_the_error_for_an_unknown_corpus_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not an embedded corpus"):
        find("demo:nothing")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"path": []}, "path"),
        ({"path": "a", "limit": 0}, "limit"),
        ({"path": "a", "max_row_bytes": 0}, "max_row_bytes"),
        ({"path": "a", "delimiter": '"'}, "delimiter"),
        ({"path": {"a": 1}}, "path"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"source\.{key}.*Set source\.{key}="):
        SourceConfig(**settings)


def test_properties_are_read_only_where_the_name_says_so_or_nothing_else(tmp_path: Path) -> None:
    for name in ("a.properties", "b.txt", "c.html", "d.csv", "e.unknown", "f.properties.gz"):
        write(tmp_path / name)
    found = find(str(tmp_path), format=SourceFormat.properties)
    assert [input.rel for input in found] == ["a.properties", "f.properties.gz"]
    assert {file.rel: file.why for file in found.skipped} == {
        "b.txt": "a file that is not named .properties",
        "c.html": "an HTML page",
        "d.csv": "a file that is not named .properties",
        "e.unknown": "a file that is not named .properties",
    }
    found = find(f"{tmp_path}/*", format=SourceFormat.properties)
    assert [input.rel for input in found] == ["a.properties", "e.unknown", "f.properties.gz"]
    assert len(find(str(tmp_path / "b.txt"), format=SourceFormat.properties)) == 1


def test_the_error_for_a_pattern_without_matches_shows_names_that_it_does_not_match(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    make_job(tmp_path / "outputs" / "n")
    with pytest.raises(ConfigError, match=r"It has other names, such as \['a\.txt'\]") as caught:
        find(str(tmp_path), pattern="*.TXT")
    assert "folders of jobs" not in str(caught.value)
