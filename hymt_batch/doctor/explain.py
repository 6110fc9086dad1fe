"""An exception that reaches the user while a model loads or first works, matched with the catalogue and explained.

The text of the library is kept: people search for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hymt_batch.doctor import catalogue
from hymt_batch.errors import HymtError, PreflightError


@contextmanager
def explain_errors(action: str) -> Iterator[None]:
    """Give a failure inside its cause and its fix, where the catalogue knows it.

    Args:
        what: What is being done, for messages: "loading the model".

    Raises:
        PreflightError: The failure is known; its own text comes first.
    """
    try:
        yield
    except HymtError as error:
        if not isinstance(error, PreflightError) or error.id:
            raise
        known = catalogue.match(_error_chain_text(error))
        if known is None:
            raise
        raise PreflightError(f"{error.message}\n  Cause: {known.cause}\n  Fix: {known.fix}", id=known.id) from error
    except Exception as error:
        known = catalogue.match(_error_chain_text(error))
        if known is None:
            raise
        first = "\n  ".join(str(error).strip().splitlines()[:6])
        raise PreflightError(
            f"{action} failed: {type(error).__name__}: {first}\n  Cause: {known.cause}\n  Fix: {known.fix}", id=known.id
        ) from error


def _error_chain_text(error: BaseException) -> str:
    """The error's text and those of its causes, the name of each class before it."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(texts) < 5:
        texts.append(f"{type(current).__name__}: {current}")
        current = current.__cause__ or current.__context__
    return "\n".join(texts)
