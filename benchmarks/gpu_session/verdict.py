"""The rule of the default engine on a GPU, as docs/decisions.md has it, applied to the results of a session.

The rule was written before any result. What has no result counts as not right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CAPTURED, SLOTS, GENERATE = "decode.engine=slots decode.capture=true", "decode.engine=slots", "decode.engine=generate"
CAPTURED_RATIO, SLOTS_RATIO = 3.0, 2.0
"""How many times as fast as sorted generate the engine must be."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What decode.engine=auto should mean on this GPU."""

    choice: str  # overrides
    reasons: tuple[str, ...]  # why the choice is not an earlier one of the rule, and what was compared

    def as_dict(self) -> dict[str, Any]:
        return {"choice": self.choice, "reasons": list(self.reasons)}


def decide(results: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """Apply the rule.

    Args:
        results: Step -> its result, with the figures below "result".
    """
    reasons: list[str] = []
    generate = _figure(results, "baseline", "generate_tokens_per_s")
    for choice, kind, required in ((CAPTURED, "captured", CAPTURED_RATIO), (SLOTS, "slots", SLOTS_RATIO)):
        wrong = [what for what in ("texts", "memory", "resume") if not _is_right(results, what, kind)]
        if _figure(results, "sampling", f"{kind}_equal") is False:
            wrong.append("sampling")
        speed = fastest_captured(results) if kind == "captured" else _figure(results, "baseline", "slots_tokens_per_s")
        if wrong:
            reasons.append(f"{kind}: not right, or without a result: {', '.join(wrong)}")
        if not speed or not generate:
            reasons.append(f"{kind}: no speed to compare")
            continue
        ratio = speed / generate
        reasons.append(
            f"{kind}: {speed:,.0f} tokens/s, {ratio:.2f} times sorted generate ({generate:,.0f}); {required:g} required"
        )
        if not wrong and ratio >= required:
            return Verdict(choice, tuple(reasons))
    return Verdict(GENERATE, tuple(reasons))


def fastest_captured(results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the tokens per second of captured steps with the best number of slots."""
    speeds = [
        _figure(results, name, "tokens_per_s")
        for name in results
        if name.startswith("captured_") and _figure(results, name, "complete")
    ]
    return max((speed for speed in speeds if speed), default=None)


def _is_right(results: Mapping[str, Mapping[str, Any]], step: str, kind: str) -> bool:
    return results.get(step, {}).get("status") == "ok" and _figure(results, step, f"{kind}_equal") is True


def _figure(results: Mapping[str, Mapping[str, Any]], step: str, key: str) -> Any:
    return (results.get(step, {}).get("result") or {}).get(key)
