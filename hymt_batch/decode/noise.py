"""The random numbers of the sampler: from a counter-based splitmix64 generator, one key per row and step.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN, _MIX = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def rng_key(seed: int, step: int) -> int:
    """Return the 64-bit key of one row and step. Source: splitmix64."""
    z = (seed + (step + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _MIX[0]) & _MASK
    z = ((z ^ (z >> 27)) * _MIX[1]) & _MASK
    return z ^ (z >> 31)


def rng_keys(seeds: Tensor, steps: Tensor) -> Tensor:
    """Return `rng_key` of each row: [B] int64 from seeds (see `seed_as_int64`) and steps [B] int64; wraps around."""
    return _mix64(seeds + (steps + 1) * as_int64(_GOLDEN))


def seed_as_int64(seed: int) -> int:
    """Return a row's unsigned 64-bit seed reinterpreted as int64."""
    return as_int64(seed & _MASK)


def as_int64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def uniform(keys: Tensor, tokens: Tensor) -> Tensor:
    """Return a number in (0, 1) per row and token: [B, K] float64; arguments as for `random_bits`."""
    return as_uniform(random_bits(keys, tokens))


def random_bits(keys: Tensor, tokens: Tensor) -> Tensor:
    """Return 53 random bits per row and token: [B, K] int64 from int64 [B, 1] and [B, K]; wraps around."""
    return _logical_shift_right(_mix64(keys + (tokens + 1) * as_int64(_GOLDEN)), 11)


def as_uniform(bits: Tensor) -> Tensor:
    """Return 53 random bits as numbers in (0, 1), in float64."""
    return (bits.double() + 0.5) / float(1 << 53)


def _mix64(z: Tensor) -> Tensor:
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        z = (z ^ _logical_shift_right(z, shift)) * as_int64(factor)
    return z ^ _logical_shift_right(z, 31)


def _logical_shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift right as an unsigned number."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
