"""Name a function of a module without importing the module, so that a format costs nothing until a file has it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Deferred:
    """A function or a class of a module, which is imported at the first call."""

    module: str  # dotted name
    name: str

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.find()(*arguments, **named)

    def find(self) -> Any:
        """Import the module and return the function."""
        return getattr(importlib.import_module(self.module), self.name)
