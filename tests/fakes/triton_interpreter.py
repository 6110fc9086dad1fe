"""Run the kernels on CPU tensors with Triton's interpreter, whose bfloat16 is corrected first.

The interpreter (3.9) cuts off the last 16 bits of a float32 where a GPU rounds to the nearest bfloat16, and multiplies
the bits of bfloat16 matrices as if they were integers.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def interpreted() -> Iterator[None]:
    """Context in which Triton's kernels run in its interpreter; for good, once the kernels' module is loaded.

    The test is skipped where Triton is not installed, except under `make test-kernels`, which installs it.
    """
    if importlib.util.find_spec("triton") is None and not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("needs Triton: make test-kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton.language as tl
        from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

        from hymt_batch.decode.kernels import triton_source

        assert type(triton_source.rms_norm).__name__ == "InterpretedFunction", "loaded before without the interpreter"
        original_cast, original_dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot
        original_call = InterpretedFunction.__call__

        def cast(self: Any, source: Any, target_type: Any) -> Any:
            types = source.dtype.scalar, target_type.scalar
            if types == (tl.float32, tl.bfloat16):
                return TensorHandle(to_bfloat16(source.data), tl.bfloat16)
            if types == (tl.bfloat16, tl.float32):
                return TensorHandle(to_float32(source.data), tl.float32)
            return original_cast(self, source, target_type)

        def dot(self: Any, left: Any, right: Any, *arguments: Any) -> Any:
            if left.dtype.scalar == tl.bfloat16:
                left, right = (TensorHandle(to_float32(side.data), tl.float32) for side in (left, right))
            return original_dot(self, left, right, *arguments)

        called: set[Any] = set()

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            # a function called by a kernel replaces its language at each call, which takes half of the time
            if self.fn in called:
                return self.rewrite()(*arguments, **options)
            called.add(self.fn)
            return original_call(self, *arguments, **options)

        patch.setattr(InterpretedFunction, "__call__", call)
        patch.setattr(InterpreterBuilder, "cast_impl", cast)
        patch.setattr(InterpreterBuilder, "create_dot", dot)
        yield


def to_bfloat16(values: Any) -> Any:
    """Round float32 to the nearest bfloat16, ties to even, as bits in uint16; NaN stays NaN."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def to_float32(bits: Any) -> Any:
    """Return the float32 numbers of bfloat16 bits in uint16."""
    import numpy as np

    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)
