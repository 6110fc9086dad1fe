"""The reading of syntax trees on which the house test rests finds what it is made for."""

from __future__ import annotations

from pathlib import Path

from tests.source_tree import Function, SourceTree


def tree(root: Path, **files: str) -> SourceTree:
    """Return the tree of a package `p` with these modules."""
    (root / "p").mkdir()
    (root / "p" / "__init__.py").write_text('"""A package."""\n')
    for name, text in files.items():
        (root / "p" / f"{name}.py").write_text(text)
    return SourceTree(sorted((root / "p").glob("*.py")), root)


def test_a_circle_through_functions_and_types_is_found(tmp_path: Path) -> None:
    files = {
        "a": "from p import b\nfrom p import e\n",
        "b": "def f():\n    import p.c\n",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import X\n",
        "d": "from p.a import Y\n",
        "e": "",
    }
    assert tree(tmp_path, **files).cycles() == [["p/a.py", "p/b.py", "p/c.py"]]


def test_files_that_only_import_downwards_have_no_circle(tmp_path: Path) -> None:
    assert tree(tmp_path, a="from p import b, c\n", b="from . import c\n", c="import os\n").cycles() == []


def test_imports_inside_functions_and_for_types_are_not_at_load(tmp_path: Path) -> None:
    text = "import os\ntry:\n    import re\nexcept ImportError: ...\ndef f():\n    import json\n"
    text += "if TYPE_CHECKING:\n    import ast\n"
    (file,) = [file for file in tree(tmp_path, a=text).files if file.path == "p/a.py"]
    assert {item.module: item.at_load for item in file.imports} == {
        "os": True, "re": True, "json": False, "ast": False,
    }  # fmt: skip


def test_a_name_from_a_module_that_only_imports_or_renames_it_is_borrowed(tmp_path: Path) -> None:
    files = {
        "a": "X = 1\nif X:\n    Y: int = 2\n",
        "b": "from p import a\nfrom p.a import X\nZ = a.Y\n",
        "c": "from p.a import X, Y\nfrom p.b import Z\nfrom p import b\nprint(b.X)\n",
        "d": "from p import b\ndef f(b):\n    return b.anything\n",
    }
    uses = [str(use) for use in tree(tmp_path, **files).borrowed_names()]
    assert uses == ["p/c.py:2 takes Z from p/b.py", "p/c.py:4 takes X from p/b.py"]


def test_functions_are_measured_without_self(tmp_path: Path) -> None:
    text = "class A:\n    def f(self, a, *b, c=1, **d):\n        def g():\n            return 1\n        return g\n"
    text += "def h(self): ...\n"
    (file,) = [file for file in tree(tmp_path, a=text).files if file.path == "p/a.py"]
    assert file.functions == [Function("p/a.py", "A.f", 4, 4), Function("p/a.py", "A.f.g", 2, 0),
                              Function("p/a.py", "h", 1, 1)]  # fmt: skip
