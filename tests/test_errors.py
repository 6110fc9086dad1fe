"""Errors are fields: what is wrong, why, how to fix it, and the id of the failure mode."""

from __future__ import annotations

import ast
import errno
import inspect
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from hymt_batch import errors, storage_error
from hymt_batch.errors import ConfigError, DeviceError, HymtError, PreflightError, Problem, StoppedError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"what": "x=0 is too small"}, "x=0 is too small."),
        ({"what": "x=0 is too small", "fix": "Set x=1."}, "x=0 is too small. Set x=1."),
        ({"what": "f cannot be read", "why": "Permission denied"}, "f cannot be read: Permission denied."),
        ({"what": "f is cut", "why": "so rows would be lost"}, "f is cut, so rows would be lost."),
        ({"what": "f is cut", "why": "It has 3 rows.", "fix": "Copy it."}, "f is cut. It has 3 rows. Copy it."),
        ({"what": "the GPU is idle", "fix": "device_map=replicate"}, "the GPU is idle. Fix: device_map=replicate."),
        ({"what": "x", "fix": "Free some space. It is kept in a/b"}, "x. Free some space. It is kept in a/b"),
        ({"what": "two lines:\n  a", "fix": "Drop a."}, "two lines:\n  a\nDrop a."),
        (
            {"what": "E: a\n  b", "why": "No room.", "fix": "Free some"},
            "E: a\n  b\n  Cause: No room.\n  Fix: Free some",
        ),
    ],
)
def test_a_message_is_composed_of_the_fields(fields: dict[str, str], message: str) -> None:
    assert HymtError(**fields).message == message
    assert Problem(**fields).message == message
    assert str(HymtError(**fields)) == message
    assert str(HymtError(**fields, id="B1")) == f"{message} [B1: hymt-batch doctor explain=B1]"


@pytest.mark.parametrize("error_class", [HymtError, ConfigError, PreflightError, DeviceError])
def test_errors_keep_their_class_and_fields_across_processes_and_changes(error_class: type[HymtError]) -> None:
    error = error_class("w", why="y", fix="Set x=1.", id="B1")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert (copy.problem, str(copy), copy.exit_code) == (error.problem, str(error), error.exit_code)
    changed = error.replace(fix="Set x=2.")
    assert type(changed) is error_class
    assert (changed.what, changed.why, changed.fix, changed.id) == ("w", "y", "Set x=2.", "B1")
    assert error.fix == "Set x=1."


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_one_function_decides_whether_a_system_error_may_pass(number: int, tmp_path: Path) -> None:
    """What is converted while a job writes, while its folder is opened, or anywhere else, has the same verdict."""
    error = OSError(number, os.strerror(number), str(tmp_path / "file"))
    may_pass = errors.is_transient(error)
    assert isinstance(errors.wrap_os_error(error), StoppedError) == may_pass
    has_no_space = number in (errno.ENOSPC, errno.EDQUOT)  # before a job starts, the check of the space says how much
    opened = storage_error.output_folder_error(tmp_path, error)
    assert isinstance(opened, StoppedError) == (may_pass and not has_no_space)
    prepared = storage_error.output_folder_error(tmp_path, error, is_prepared=True)
    removed = number == errno.ENOENT  # by another process
    assert isinstance(prepared, StoppedError) == (isinstance(opened, StoppedError) or removed)
    written = storage_error.write_error("a part", error)
    assert isinstance(written, StoppedError) == errors.is_transient(error, writing=True)
    comes_back = number in (errno.ENOENT, errno.EROFS, errno.EEXIST)  # the folder, after the job could write to it
    assert errors.is_transient(error, writing=True) == (may_pass or comes_back)
    for helper, expected in (
        (storage_error.wrap_os_errors("a part"), written),
        (storage_error.wrap_folder_errors(tmp_path, "the output"), opened),
    ):
        with pytest.raises(HymtError) as raised, helper:
            raise error
        assert (type(raised.value), raised.value.problem) == (type(expected), expected.problem)
    for converted in (errors.wrap_os_error(error), opened, written):
        assert converted.fix.endswith(".")


ROOT = Path(__file__).parents[1]
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("hymt_batch", "jobs")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
ERROR_CLASSES = {
    name for name, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, errors.HymtError)
}
WITHOUT_FIX = {
    ("hymt_batch/model/chunked_encode.py", "TextError"): "in a job it costs only the row, which names it",
    ("hymt_batch/formats/language_codes.py", "ConfigError"): "it becomes the message of a row, which names the field",
}
"""Where an error has no fix -> why nothing can be done."""

MATCHES_LIBRARIES = {
    "hymt_batch/errors.py: wrap_exception": "messages of the operating system in exceptions without a number",
    "hymt_batch/model/memory.py: is_out_of_memory": "torch raises RuntimeError for a full main memory",
    "hymt_batch/model/memory.py: is_gpu_failure": "torch raises RuntimeError for a failure of CUDA",
    "hymt_batch/doctor/explain.py: _first_lines": "the message of a library, to be shown",
    "hymt_batch/errors.py: first_line": "the message of a library, to be shown",
}
"""Functions that look into the text of an exception -> whose text that is. None of them reads our own sentences."""


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the file and the node of each call of a class or function."""
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name:
                yield path, node


def is_empty(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and not node.value)


@pytest.mark.parametrize("name", sorted(ERROR_CLASSES))
def test_every_error_has_a_fix_and_what_is_one_statement(name: str) -> None:
    """The text of `what` must not hold the fix: it ends without a full stop, so nothing is glued behind it."""
    without_fix = set()
    for path, call in calls(name):
        fields = {keyword.arg: keyword.value for keyword in call.keywords}
        if None in fields:
            continue  # the fields of another error or finding
        where = f"{path}:{call.lineno}"
        assert len(call.args) == 1, where
        assert set(fields) <= {"why", "fix", "id"}, where
        if is_empty(fields.get("fix")):
            without_fix.add((path, name))
        literals = [node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)]
        texts = [text for text in literals if isinstance(text, str)]
        assert not [text for text in texts if ". Set " in text or "; set " in text], f"{where}: give it as fix"
    assert without_fix == {where for where in WITHOUT_FIX if where[1] == name}


def test_every_warning_of_a_plan_has_a_fix() -> None:
    planned = [item for item in calls("Problem") if item[0].split("/")[1] in ("model", "device_map")]
    assert len(planned) >= 7
    for path, call in planned:
        fields = {keyword.arg: keyword.value for keyword in call.keywords}
        assert not is_empty(fields.get("fix")), f"{path}:{call.lineno}"


PARSING_METHODS = {
    "split",
    "rsplit",
    "partition",
    "rpartition",
    "splitlines",
    "startswith",
    "endswith",
    "find",
    "index",
}
ERROR_NAMES = {
    "error",
    "exception",
    "caught",
    "failure",
    "damage",
    "denied",
    "refusal",
    "problem",
    "finding",
    "document",
}


def is_error_text(node: ast.AST) -> bool:
    """Return whether an expression is the text of an error, such as `x.message` or `str(x).strip()`."""
    if isinstance(node, ast.Attribute):
        named = isinstance(node.value, ast.Name) and node.value.id in ERROR_NAMES
        return node.attr in ("message", "statement") or (named and node.attr in ("text", "what", "why", "fix"))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return is_error_text(node.func.value)
    is_str = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("str", "first_line")
    return is_str and any(isinstance(part, ast.Name) and part.id in ERROR_NAMES for part in node.args)


def parsed_texts(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield function and line of each place that looks into the text of an error."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            texts: list[ast.expr] = []
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
                texts = node.comparators
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_regex = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
                texts = node.args if is_regex else [node.func.value] if node.func.attr in PARSING_METHODS else []
            if any(is_error_text(text) for text in texts):
                yield function.name, node.lineno


def test_no_module_parses_the_text_of_an_error() -> None:
    """What the code needs to know of an error is a field, a class or an id."""
    found = {f"{path}: {name}" for path, tree in SOURCES.items() for name, _ in parsed_texts(tree)}
    assert found == set(MATCHES_LIBRARIES)


@pytest.mark.parametrize(
    "code",
    [
        "if 'x' in error.message: pass",
        "seen = document.message.strip().partition('. ')",
        "match = re.search('x', str(error))",
        "first = str(damage).splitlines()[0]",
        "slow = any('x' in warning.message for warning in warnings)",
    ],
)
def test_the_check_finds_parsed_texts(code: str) -> None:
    assert list(parsed_texts(ast.parse(f"def f():\n    {code}")))
