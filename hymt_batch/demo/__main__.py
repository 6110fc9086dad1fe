"""Commands for the demo model: sample bulletins, write the corpus, check the shipped model, train it.

    python -m hymt_batch.demo sample --seed 1 --num 100 --tgt-lang fr --out DIR [--codes]
    python -m hymt_batch.demo corpus [--out DIR]
    python -m hymt_batch.demo train --out DIR [--steps N]
    python -m hymt_batch.demo check [--num N] [--seed S] [--kind KIND] [--model DIR]

Exit codes: 0 success, 1 the model translates too few examples exactly, 2 usage error or an unwritable file.

`sample` and `corpus` need only the standard library.
"""

import argparse
import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from hymt_batch.demo import checkpoint, curriculum, example, grammar, measure, train

CORPUS_DIR = Path(__file__).parent / "corpus"
CORPUS_SEED = 400
NUM_CORPUS_BULLETINS = 400


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports a usage error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "sample":
            kind = "codes" if args.codes else "plain"
            write_sample(args.out, seed=args.seed, num=args.num, tgt_lang=args.tgt_lang, kind=kind)
            return 0
        if args.command == "corpus":
            write_corpus(args.out)
            return 0
        if args.command == "train":
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            _silence_transformers()
            return _report(train.build(args.out, num_steps=args.steps))
    except OSError as error:
        return _fail(f"cannot write {error.filename or args.out}: {error.strerror}. Set --out to another folder.")
    if not (args.model / "config.json").is_file():
        return _fail(f"{args.model} has no config.json, so it is not a model. Set --model to a folder made by train.")
    _silence_transformers()
    kinds = [args.kind] if args.kind else example.KINDS
    return _report(measure.measure(args.model, num_rows=args.num, seed=args.seed, kinds=kinds))


def write_sample(out: Path, *, seed: int, num: int, tgt_lang: str, kind: str = "plain") -> None:
    """Write `num` held-out bulletins to src.txt and their translations to ref.txt, one per line.

    Those with a line break are left out.
    """
    drawn = (row for row in example.stream(kind, seed, held_out=True) if "\n" not in row.text.en)
    rows = list(itertools.islice(drawn, num))
    out.mkdir(parents=True, exist_ok=True)
    _write_lines(out / "src.txt", [row.text.en for row in rows])
    _write_lines(out / "ref.txt", [row.answer(tgt_lang) for row in rows])


def write_corpus(out: Path) -> None:
    """Write the corpus and its three translations; a blank line of the corpus is blank in all of them."""
    lines = corpus_lines()
    out.mkdir(parents=True, exist_ok=True)
    _write_lines(out / "bulletins.txt", [line.en if line else "" for line in lines])
    for tgt_lang in grammar.TARGETS:
        translations = [grammar.reference(line, tgt_lang) if line else "" for line in lines]
        _write_lines(out / f"bulletins.{tgt_lang}.txt", translations)


def corpus_lines() -> list[grammar.Text | None]:
    """Return the lines of the corpus: held-out bulletins, a few of them repeated, and None for a blank line."""
    rng = Random(CORPUS_SEED)
    lines: list[grammar.Text | None] = []
    for index, bulletin in enumerate(grammar.sample(CORPUS_SEED, NUM_CORPUS_BULLETINS)):
        if index and index % 25 == 0:
            lines.append(None)
        lines.append(bulletin)
        # real corpora repeat some lines too
        if rng.random() < 0.03:
            lines.append(lines[int(rng.random() * len(lines))] or bulletin)
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m hymt_batch.demo", description="Commands for the demo model.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sample = commands.add_parser(
        "sample",
        help="sample held-out weather bulletins and their translations",
        description="Write src.txt and ref.txt: bulletins the demo model was never trained on, and their correct "
        "translations, one per line. The same seed gives the same lines.",
    )
    sample.add_argument("--seed", type=_non_negative_int, default=0, metavar="S", help="random seed (default: 0)")
    sample.add_argument("--num", type=_positive_int, required=True, metavar="N", help="number of bulletins")
    sample.add_argument("--tgt-lang", choices=grammar.TARGETS, required=True, help="language of ref.txt")
    sample.add_argument(
        "--codes",
        action="store_true",
        help="bulletins with tags, placeholders and addresses in them",
    )
    sample.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to, created if missing")

    corpus_command = commands.add_parser(
        "corpus",
        help="write the corpus that `make demo` translates",
        description="Write bulletins.txt and its translations bulletins.fr.txt, .de.txt and .zh.txt.",
    )
    corpus_command.add_argument(
        "--out",
        type=Path,
        default=CORPUS_DIR,
        metavar="DIR",
        help="folder to write to (default: the one in the package)",
    )

    _add_training(commands)
    return parser


def _add_training(commands: Any) -> None:
    """Add the commands that train and measure a model."""
    train_command = commands.add_parser(
        "train",
        help="train the demo model (20 minutes on two cores)",
        description="Train the demo model into a folder, or go on with a run that was stopped, then measure it. Exits "
        "with 1 if fewer than 99 % of the held-out examples of a kind are translated exactly.",
    )
    train_command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write to, created if missing"
    )
    train_command.add_argument(
        "--steps",
        type=_positive_int,
        default=curriculum.NUM_STEPS,
        metavar="N",
        help="training steps; use fewer only for a trial (default: %(default)s)",
    )

    check = commands.add_parser(
        "check",
        help="measure how many held-out examples are translated exactly",
        description="Translate held-out examples and print, for each kind, language and dtype, how many translations "
        "are exact. Exits with 1 if any share is under 99 %.",
    )
    check.add_argument(
        "--num", type=_positive_int, default=100, metavar="N", help="examples per kind and language (default: 100)"
    )
    check.add_argument("--seed", type=_non_negative_int, default=1, metavar="S", help="random seed (default: 1)")
    check.add_argument("--kind", choices=example.KINDS, help="kind of the examples (default: all kinds)")
    check.add_argument(
        "--model",
        type=Path,
        default=checkpoint.MODEL_DIR,
        metavar="DIR",
        help="model folder (default: the shipped one)",
    )


def _non_negative_int(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return number


def _positive_int(text: str) -> int:
    number = _non_negative_int(text)
    if number == 0:
        raise argparse.ArgumentTypeError("'0' is not a whole number of 1 or more")
    return number


def _silence_transformers() -> None:
    from transformers.utils import logging as transformers_logging

    # it warns about rope_scaling keys that the 1.8B model's config has too, and shows a progress bar for 46 tensors
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _report(results: list[measure.Exactness]) -> int:
    print("kind     language  dtype     exact    share")
    for result in results:
        exact = f"{result.num_exact}/{result.num_rows}"
        print(f"{result.kind:<7}  {result.tgt_lang:<8}  {result.dtype:<8}  {exact:<7}  {result.share:.1%}")
    return 0 if all(result.share >= measure.MIN_EXACT_SHARE for result in results) else 1


def _fail(message: str) -> int:
    print(f"python -m hymt_batch.demo: {message}", file=sys.stderr)
    return 2


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
