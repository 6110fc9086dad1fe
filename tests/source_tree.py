"""The Python files of the product as syntax trees: what each imports and defines, and how large its functions are."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Import:
    """A name that a file imports."""

    file: SourceFile
    line: int
    module: str  # dotted name of the module that is imported or that the name is imported from
    name: str | None  # None if the module itself is imported
    alias: str  # what the file calls it
    at_load: bool  # False inside a function and for type checkers only

    def __str__(self) -> str:
        what = self.module if self.name is None else f"{self.module}.{self.name}"
        return f"{self.file.path}:{self.line} imports {what}"


@dataclass(frozen=True)
class Function:
    """A function or method; `name` is dotted."""

    path: str
    name: str
    num_lines: int
    num_parameters: int  # without self and cls


@dataclass(frozen=True)
class Borrowed:
    """A name that a file takes from a module which does not define it."""

    path: str
    line: int
    name: str
    lender: str  # path of the module
    as_attribute: bool  # module.name; else from module import name

    def __str__(self) -> str:
        return f"{self.path}:{self.line} takes {self.name} from {self.lender}"


class SourceFile:
    """One file, by its path relative to a folder, which is the repository unless a test has another."""

    def __init__(self, file: Path, root: Path = ROOT) -> None:
        self.path = str(file.relative_to(root))
        names = file.relative_to(root).with_suffix("").parts
        self.module = ".".join(names[:-1] if names[-1] == "__init__" else names)
        self.text = file.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    def __repr__(self) -> str:
        return self.path

    @property
    def house_path(self) -> str:
        """The path below hymt_batch/; files outside of it keep their path."""
        return self.path.removeprefix("hymt_batch/")

    @cached_property
    def imports(self) -> list[Import]:
        return list(self._imports(self.tree, True))

    def _imports(self, node: ast.AST, at_load: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(self, child.lineno, alias.name, None, alias.asname or alias.name, at_load)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                if child.level:
                    package = self.module.split(".")[: -child.level]
                    module = ".".join([*package, *([module] if module else [])])
                for alias in child.names:
                    yield Import(self, child.lineno, module, alias.name, alias.asname or alias.name, at_load)
            else:
                for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                in_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from self._imports(child, at_load and not (for_types or in_function))

    @cached_property
    def defined_names(self) -> set[str]:
        """Names that the file itself defines when it is loaded; not those that it imports or only renames."""
        imported = {item.alias for item in self.imports}
        names: set[str] = set()
        nodes: list[ast.AST] = [self.tree]
        while nodes:
            for child in ast.iter_child_nodes(nodes.pop()):
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    names.add(child.name)
                elif isinstance(child, (ast.Assign, ast.AnnAssign)):
                    targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                    root = child.value
                    while isinstance(root, ast.Attribute):
                        root = root.value
                    if not (isinstance(root, ast.Name) and root.id in imported):
                        names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
                elif isinstance(child, (ast.If, ast.Try, ast.With, ast.For)):
                    nodes.append(child)
        return names

    @cached_property
    def variables(self) -> set[str]:
        """Names of all variables and parameters of the file, at any depth."""
        nodes = list(ast.walk(self.tree))
        stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        return stored | {node.arg for node in nodes if isinstance(node, ast.arg)}

    @cached_property
    def functions(self) -> list[Function]:
        return list(self._functions(self.tree, "", False))

    def _functions(self, node: ast.AST, prefix: str, in_class: bool) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                arguments = child.args
                names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
                names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
                num_parameters = len(names) - (in_class and names[:1] in (["self"], ["cls"]))
                num_lines = (child.end_lineno or child.lineno) - child.lineno + 1
                yield Function(self.path, prefix + child.name, num_lines, num_parameters)
                yield from self._functions(child, f"{prefix}{child.name}.", False)
            elif isinstance(child, ast.ClassDef):
                yield from self._functions(child, f"{prefix}{child.name}.", True)
            else:
                yield from self._functions(child, prefix, in_class)


class SourceTree:
    """Several files that import each other."""

    def __init__(self, files: Sequence[Path], root: Path = ROOT) -> None:
        self.files = [SourceFile(file, root) for file in files]
        self.by_module: Mapping[str, SourceFile] = {file.module: file for file in self.files}

    def target(self, item: Import) -> SourceFile | None:
        """Return the file of this tree that an import reads; None if it is of no file of the tree."""
        if item.name is not None and (file := self.by_module.get(f"{item.module}.{item.name}")):
            return file
        return self.by_module.get(item.module)

    def cycles(self) -> list[list[str]]:
        """Return the groups of files that import each other in a circle, inside functions and for types too."""
        edges = {
            file.path: {t.path for item in file.imports if (t := self.target(item)) and t is not file}
            for file in self.files
        }
        # a file without edges to or from the rest is in no circle: remove such files until none is left
        while True:
            imported = {path for paths in edges.values() for path in paths}
            ends = {path for path, paths in edges.items() if not paths or path not in imported}
            if not ends:
                break
            edges = {path: paths - ends for path, paths in edges.items() if path not in ends}
        groups: list[list[str]] = []
        for path in edges:
            group = sorted(self._reached(edges, path) & {p for p in edges if path in self._reached(edges, p)})
            if group and group not in groups:
                groups.append(group)
        return groups

    @staticmethod
    def _reached(edges: Mapping[str, set[str]], start: str) -> set[str]:
        reached: set[str] = set()
        waiting = [start]
        while waiting:
            for path in edges[waiting.pop()] - reached:
                reached.add(path)
                waiting.append(path)
        return reached

    def borrowed_names(self) -> list[Borrowed]:
        """Return every use of a name through a module that does not define it."""
        uses = []
        for file in self.files:
            modules: dict[str, SourceFile] = {}
            for item in file.imports:
                target = self.target(item)
                if target is None:
                    continue
                if item.name is None or target.module == f"{item.module}.{item.name}":
                    modules[item.alias] = target
                elif item.name not in target.defined_names:
                    uses.append(Borrowed(file.path, item.line, item.name, target.path, False))
            for node in ast.walk(
                file.tree
            ):  # module.name, unless the file uses the module's name for something else too
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    module = modules.get(node.value.id)
                    is_known = module is None or node.value.id in file.variables or node.attr in module.defined_names
                    if module is not None and not is_known and not node.attr.startswith("__"):
                        uses.append(Borrowed(file.path, node.lineno, node.attr, module.path, True))
        return uses


_PRODUCT_FILES = [*sorted((ROOT / "hymt_batch").rglob("*.py")), *sorted((ROOT / "jobs").glob("*.py"))]

PRODUCT = SourceTree(_PRODUCT_FILES)


def with_tests() -> SourceTree:
    """Return the product together with the tests."""
    return SourceTree([*_PRODUCT_FILES, *sorted((ROOT / "tests").rglob("*.py"))])
