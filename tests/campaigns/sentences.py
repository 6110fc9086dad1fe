"""Draw sentences of comments, docstrings and messages at random, for a reader who is new to the project.

A measure of plain language: of 40 sentences, at most two should need a second reading. Prints the location of each.

    python -m tests.campaigns.sentences --seed 20261128
"""

from __future__ import annotations

import argparse
import ast
import io
import random
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MIN_WORDS = 5
"""A text of fewer words is a label, not a sentence."""


def texts(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, kind and text of every comment, docstring and message of a file; `{}` stands for a value."""
    source = path.read_text(encoding="utf-8")
    lines: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"# (noqa|type:|fmt:)", token.string):
            own_line = not token.line[: token.start[1]].strip()
            previous = lines.pop(token.start[0] - 1, None) if own_line else None
            lines[token.start[0]] = f"{previous or ''} {token.string.lstrip('# ')}".strip()
    yield from ((line, "comment", text) for line, text in lines.items())
    docstrings = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for child in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                docstrings.add(id(child.value))
                yield child.lineno, "docstring", child.value.value
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            docstrings |= {id(part) for part in node.values}
            yield node.lineno, "message", "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, "message", node.value


def sentences(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the location and the text of each sentence of a file."""
    for line, kind, text in texts(path):
        for paragraph in re.split(r"\n\s*\n|\n\s*[-*] |\n\s+(?=\w+: )", text):
            for sentence in re.split(r"(?<=[.:;!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                is_sentence = len(re.findall(r"[A-Za-z]{2,}", sentence)) >= MIN_WORDS and " " in sentence
                if is_sentence and not re.search(r"^\s*(import|from|def|with)\b|[\\^]\w|\(\?", sentence):
                    yield f"{path.relative_to(ROOT)}:{line} ({kind})", sentence


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw sentences of the code at random.")
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument("--size", type=int, default=40, help="how many")
    options = parser.parse_args()
    listed = subprocess.run(
        ["git", "ls-files", "hymt_batch", "jobs", "tests"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.splitlines() if name.endswith(".py")]
    drawn_from = [located for path in paths for located in sentences(path)]
    print(f"seed={options.seed} sentences={len(drawn_from)}")
    for index, (location, sentence) in enumerate(random.Random(options.seed).sample(drawn_from, options.size), 1):
        print(f"{index:2}. {location}\n    {sentence}")


if __name__ == "__main__":
    main()
