"""Show that a change renamed things and reworded texts, and changed no code.

Compares the syntax trees of two commits file by file. Docstrings and comments are left out, imports are compared as
sets. Everything else must have the same shape; only names and the wording of texts may differ:

- In one function, class or module, two old variables, attributes or keywords never become one new name. `--table`
  prints the renames.
- Texts without a space, dictionary keys and names in `getattr` may change only if something of that name was renamed.
  Other texts may be reworded; the values in an f-string stay the same ones. `--texts` prints them.

    python -m tests.campaigns.same_code BASE [HEAD]
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("hymt_batch", "jobs", "tests")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def pairs(base: str, head: str) -> Iterator[tuple[str, str]]:
    """Return the paths of each Python file at `base` and at `head`; raise SystemExit if a file has no counterpart."""
    before = git("ls-tree", "-r", "--name-only", base, "--", *FOLDERS).splitlines()
    moved: dict[str, str] = {}
    for line in git("diff", "--name-status", "-M20%", "-l0", base, head, "--", *FOLDERS).splitlines():
        status, *paths = line.split("\t")
        if status.startswith("R"):
            moved[paths[0]] = paths[1]
        elif status in "AD" and paths[0].endswith(".py"):
            print(f"{'new' if status == 'A' else 'gone'}: {paths[0]}")
    for path in sorted(before):
        if path.endswith(".py") and (path in moved or (ROOT / path).exists() or head != "HEAD"):
            yield path, moved.get(path, path)


@dataclass
class Scope:
    """The names of one function, class or module."""

    name: str
    old_of: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


@dataclass
class Comparison:
    """The differences between two versions of a file."""

    path: str
    errors: list[str] = field(default_factory=list)
    names: Counter[tuple[str, str]] = field(default_factory=Counter)
    texts: list[tuple[int, str, str]] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    words: list[tuple[int, str, str]] = field(default_factory=list)
    imports: list[tuple[set[str], set[str]]] = field(default_factory=list)
    listed: list[tuple[ast.expr, ast.expr]] = field(default_factory=list)  # names in __slots__ and __all__

    def error(self, node: ast.AST, what: str) -> None:
        self.errors.append(f"{self.path}:{getattr(node, 'lineno', 0)}: {what}")

    def rename(self, old: str | None, new: str | None, node: ast.AST, owner: str | None = "") -> None:
        if old is None or new is None:
            if old is not new:
                self.error(node, f"name {old!r} became {new!r}")
            return
        if old != new:
            self.names[old, new] += 1
        if owner is not None:
            self.scopes[-1].old_of[f"{owner}{new}"].add(old)

    def compare(self, old: object, new: object, parent: ast.AST) -> None:
        if isinstance(old, ast.JoinedStr) or isinstance(new, ast.JoinedStr):
            self.texts_of(old, new, parent)
            return
        if type(old) is not type(new):
            self.error(parent, f"{type(old).__name__} became {type(new).__name__}")
        elif isinstance(old, ast.AST):
            self.nodes(old, new)  # type: ignore[arg-type]
        elif isinstance(old, list):
            assert isinstance(new, list)
            if len(old) != len(new):
                self.error(parent, f"{len(old)} became {len(new)} in {type(parent).__name__}")
                return
            for old_item, new_item in zip(old, new, strict=True):
                self.compare(old_item, new_item, parent)
        elif old != new:
            self.error(parent, f"{old!r} became {new!r}")

    def texts_of(self, old: object, new: object, parent: ast.AST) -> None:
        def values(node: object) -> Counter[str]:
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            return Counter(type(part.value).__name__ for part in parts if isinstance(part, ast.FormattedValue))

        if not isinstance(old, (ast.JoinedStr, ast.Constant)) or not isinstance(new, (ast.JoinedStr, ast.Constant)):
            self.error(parent, "a text was replaced by an expression that is not a text")
            return
        if values(old) != values(new):
            self.error(old, f"other values in a text: {ast.unparse(old)} became {ast.unparse(new)}")
        if words(old) != words(new):
            self.texts.append((new.lineno, ast.unparse(old), ast.unparse(new)))
        olds = [part for part in getattr(old, "values", []) if isinstance(part, ast.FormattedValue)]
        news = [part for part in getattr(new, "values", []) if isinstance(part, ast.FormattedValue)]
        shapes = [shape(part) for part in olds], [shape(part) for part in news]
        if shapes[0] == shapes[1]:
            for old_part, new_part in zip(olds, news, strict=False):
                self.nodes(old_part, new_part)

    def nodes(self, old: ast.AST, new: ast.AST) -> None:
        if isinstance(old, ast.Assign) and ast.unparse(old.targets[0]) in ("__slots__", "__all__"):
            for names in (old.value, getattr(new, "value", None)):
                names.elts.sort(key=ast.unparse)  # type: ignore[union-attr]
            self.listed.append((old.value, new.value))  # type: ignore[attr-defined]
            return
        if isinstance(old, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Module)):
            if not isinstance(old, (ast.Lambda, ast.Module)):
                self.rename(old.name, new.name, new)  # type: ignore[attr-defined]
            self.scopes.append(Scope(f"{self.path}:{getattr(new, 'lineno', 0)}"))
            strip(old), strip(new)
        for name in old._fields:
            first, second = getattr(old, name, None), getattr(new, name, None)
            if name in ("id", "attr", "arg", "asname") or (name == "name" and not hasattr(old, "body")):
                if isinstance(old, ast.alias):
                    continue
                self.rename(first, second, new, owner(old))
            elif name == "name" and isinstance(old, ast.ExceptHandler):
                self.rename(first, second, new)
            elif name in ("name", "module", "kwd_attrs") or name == "type_comment":
                continue
            elif name == "names" and isinstance(old, (ast.Global, ast.Nonlocal)):
                for old_name, new_name in zip(first, second, strict=True):
                    self.rename(old_name, new_name, new)
            elif isinstance(old, ast.Constant) and name == "value":
                if first != second:
                    if isinstance(first, str) and isinstance(second, str):
                        (self.texts if " " in first and " " in second else self.words).append(
                            (new.lineno, first, second)  # type: ignore[attr-defined]
                        )
                    else:
                        self.error(new, f"{first!r} became {second!r}")
            elif isinstance(first, list) and name in ("body", "orelse", "finalbody", "handlers"):
                self.bodies(first, second, new)  # type: ignore[arg-type]
            else:
                self.compare(first, second, new)
        if isinstance(old, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Module)):
            scope = self.scopes.pop()
            for name, olds in scope.old_of.items():
                if len(olds) > 1:
                    self.errors.append(f"{scope.name}: {sorted(olds)} became one name, {name}")

    def bodies(self, old: list[ast.stmt], new: list[ast.stmt], parent: ast.AST) -> None:
        kinds = (ast.Import, ast.ImportFrom)
        old_nodes, new_nodes = ([node for node in body if not isinstance(node, kinds)] for body in (old, new))
        self.imports.append((imported(old), imported(new)))
        self.compare(old_nodes, new_nodes, parent)


def words(node: ast.AST) -> list[str]:
    """Return the constant pieces of a text."""
    pieces = getattr(node, "values", [node])
    return [piece.value for piece in pieces if isinstance(piece, ast.Constant)]


def owner(node: ast.AST) -> str | None:
    """Return "" for a variable, "self." for an attribute of self, and None for another object's attribute."""
    if isinstance(node, ast.Attribute):
        return "self." if isinstance(node.value, ast.Name) and node.value.id == "self" else None
    return None if isinstance(node, ast.keyword) else ""


def shape(node: ast.AST) -> str:
    return ",".join(type(child).__name__ for child in ast.walk(node))


def strip(node: ast.AST) -> None:
    """Remove the docstrings of a function, class or module, and those of its constants."""
    body = getattr(node, "body", None)
    if isinstance(body, list):
        kept = [
            child
            for child in body
            if not (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            )
        ]
        body[:] = kept


def is_docstring(node: ast.stmt) -> bool:
    value = getattr(node, "value", None)
    return isinstance(node, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str)


def imported(body: list[ast.stmt]) -> set[str]:
    names = set()
    for node in body:
        if isinstance(node, ast.ImportFrom):
            start = "." * node.level + (f"{node.module}." if node.module else "")
            names |= {f"{start}{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description="Show that two commits differ in names and wording alone.")
    parser.add_argument("base")
    parser.add_argument("head", nargs="?", default="HEAD")
    parser.add_argument("--table", action="store_true", help="print the renames")
    parser.add_argument("--texts", action="store_true", help="print the texts that were reworded")
    parser.add_argument("--allow", default="", help="comma-separated paths that are not compared")
    options = parser.parse_args()
    names: Counter[tuple[str, str]] = Counter()
    comparisons, modules = [], {}
    for before, after in pairs(options.base, options.head):
        if after in options.allow.split(","):
            continue
        try:
            trees = [
                ast.parse(git("show", f"{rev}:{path}")) for rev, path in ((options.base, before), (options.head, after))
            ]
        except subprocess.CalledProcessError:
            print(f"gone: {before}")
            continue
        comparison = Comparison(after)
        comparison.nodes(*trees)
        comparisons.append(comparison)
        names += comparison.names
        modules[dotted(before)] = dotted(after)
    num_texts, errors = 0, []
    renamed = set(names) | {(old.rpartition(".")[2], new.rpartition(".")[2]) for old, new in modules.items()}
    for comparison in comparisons:
        errors += comparison.errors
        num_texts += len(comparison.texts)
        for line, old, new in comparison.words:
            pieces = [*zip(old.replace("/", ".").split("."), new.replace("/", ".").split("."), strict=False)]
            if any(first != second and (first, second) not in renamed for first, second in pieces):
                errors.append(f"{comparison.path}:{line}: the text {old!r} became {new!r}, but no name changed so")
        for old_list, new_list in comparison.listed:
            if len(old_list.elts) != len(new_list.elts):  # type: ignore[attr-defined]
                errors.append(
                    f"{comparison.path}:{new_list.lineno}: the number of names changed in {ast.unparse(new_list)}"
                )
        for before, after in comparison.imports:
            mapped = {mapping(name, modules, renamed, after) for name in before}
            if mapped != after:
                errors.append(f"{comparison.path}: imports {sorted(mapped - after)} became {sorted(after - mapped)}")
        if options.texts:
            for line, old, new in comparison.texts:
                print(f"{comparison.path}:{line}\n  - {old}\n  + {new}")
    if options.table:
        for (old, new), count in sorted(names.items()):
            print(f"{old} -> {new} ({count})")
    print("\n".join(errors))
    moved = sum(old != new for old, new in modules.items())
    print(json.dumps({"equal": not errors, "files": len(comparisons), "moved": moved, "renames": len(names),
                      "places": sum(names.values()), "texts": num_texts, "errors": len(errors)}))  # fmt: skip
    return bool(errors)


def dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def mapping(name: str, modules: dict[str, str], renamed: set[tuple[str, str]], after: set[str]) -> str:
    """Return the expected name of an import after the renames."""
    if name in modules:
        return modules[name]
    if f"tests.{name.partition('.')[0]}" in modules:  # tests import one another without their package
        name = f"tests.{name}"
        return mapping(name, modules, renamed, {f"tests.{other}" for other in after}).removeprefix("tests.")
    if "." not in name:
        return name
    level = name[: len(name) - len(name.lstrip("."))]
    module, _, last = name.removeprefix(level).rpartition(".")
    module = (
        modules.get(f"jobs.{module}", f"jobs.{module}").removeprefix("jobs.") if level else modules.get(module, module)
    )
    if level and f"jobs.{last}" in modules and not module:
        last = modules[f"jobs.{last}"].removeprefix("jobs.")
    start = f"{level}{module}." if module else level
    for candidate in [last, *(new for old, new in renamed if old == last)]:
        if f"{start}{candidate}" in after:
            return f"{start}{candidate}"
    return f"{start}{last}"


if __name__ == "__main__":
    sys.exit(main())
