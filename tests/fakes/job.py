"""`hymt-batch translate` with the fake model and engine: python -m tests.fakes.job OVERRIDES."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from hymt_batch import streams
from jobs import __main__ as front
from jobs import translate
from tests.fakes import engine, model


def run(overrides: Sequence[str], decode: engine.Decode = engine.upper, **arguments: Any) -> int:
    """Run the job with this decode function, with `arguments` as other arguments of `translate`; return its code."""
    original = translate.run
    arguments = {"prepare_model": model.prepare, **arguments}
    translate.run = partial(original, translate=partial(translate.translate, **arguments))
    try:
        with engine.registered(decode):
            return front.main(["translate", *overrides])
    finally:
        translate.run = original


def translate_with(job: Any, reporter: Any, decode: engine.Decode = engine.upper, **arguments: Any) -> Any:
    """Translate in this process with this decode function; takes other arguments of `translate`, too."""
    with engine.registered(decode):
        return translate.translate(job, reporter, **{"prepare_model": model.prepare, **arguments})


if __name__ == "__main__":
    streams.restart_if_needed()
    sys.exit(run(sys.argv[1:]))
