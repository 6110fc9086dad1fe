"""Adds cause and fix from the catalogue to exceptions that are raised while a model loads or first runs.

The library's own message is kept, because users search the web for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hymt_batch.doctor import catalogue
from hymt_batch.errors import HymtError, PreflightError


@contextmanager
def explain_errors(action: str) -> Iterator[None]:
    """Add cause and fix to an exception raised in the block, if the catalogue knows it.

    Args:
        action: What the block does, for the message, such as "loading the model".

    Raises:
        PreflightError: The failure is known; `what` is the original text, `why` and `fix` are the catalogue's.
    """
    try:
        yield
    except HymtError as error:
        if not isinstance(error, PreflightError) or error.id:
            raise
        failure = catalogue.match(_error_chain_text(error))
        if failure is None:
            raise
        what = error.problem.statement
        raise error.replace(what=what, why=failure.cause, fix=failure.fix, id=failure.id) from error
    except Exception as error:
        failure = catalogue.match(_error_chain_text(error))
        if failure is None:
            raise
        raise PreflightError(
            f"{action} failed: {type(error).__name__}: {_first_lines(error)}",
            why=failure.cause,
            fix=failure.fix,
            id=failure.id,
        ) from error


def _first_lines(error: BaseException) -> str:
    """Return up to six lines of an exception's message; all but the first are indented."""
    return "\n  ".join(str(error).strip().splitlines()[:6])


def _error_chain_text(error: BaseException) -> str:
    """Return the messages of an exception and its causes, each after the name of its class."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(texts) < 5:
        texts.append(f"{type(current).__name__}: {current}")
        current = current.__cause__ or current.__context__
    return "\n".join(texts)
