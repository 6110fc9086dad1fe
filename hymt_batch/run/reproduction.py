"""The result of `reproduce`: what was compared with what, what differs, and what may explain it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hymt_batch.errors import ExitCode
from hymt_batch.records import plural
from hymt_batch.run.published_bytes import ChangedFile
from hymt_batch.run.reproduced_rows import MAX_DIFFERENT, DifferentRow

MAX_SHOWN = 20
"""Most different rows in the text."""


@dataclass(slots=True)
class Reproduction:
    """What `reproduce` found.

    Attributes:
        folder: The folder of the job.
        rows: How many rows of the job can be compared.
        whole_units: What the job decoded together was decoded together again.
        seed: Of the draw of the rows; None if all were decoded.
        changed_files: Published files that are not as the manifest has them; then nothing is decoded.
        compared: Rows that were compared.
        num_different: How many of them differ.
        different: The first MAX_DIFFERENT of these.
        left_out: Rows that are not compared, by the reason.
        environment: Key, value of the job and value here of what differs between the environments.
        causes: What may explain a difference.
    """

    folder: str
    rows: int = 0
    whole_units: bool = False
    seed: int | None = None
    changed_files: list[ChangedFile] = field(default_factory=list)
    compared: int = 0
    num_different: int = 0
    different: list[DifferentRow] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    environment: list[tuple[str, Any, Any]] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)

    def add(self, different: DifferentRow | None) -> None:
        """Count a row that was compared."""
        self.compared += 1
        if different is None:
            return
        self.num_different += 1
        if len(self.different) < MAX_DIFFERENT:
            self.different.append(different)

    @property
    def exit_code(self) -> ExitCode:
        if self.changed_files:
            return ExitCode.DAMAGE
        return ExitCode.DIFFERENT if self.num_different else ExitCode.COMPLETE

    def to_json(self) -> dict[str, Any]:
        """Return all fields, by name."""
        environment = [{"key": key, "job": job, "here": here} for key, job, here in self.environment]
        return asdict(self) | {"environment": environment, "exit_code": int(self.exit_code)}

    def describe(self) -> str:
        """Return the result as text."""
        if self.changed_files:
            return "\n".join([f"{self.folder}: damaged; nothing was decoded", *self._changed_lines()])
        verdict = f"{plural(self.num_different, 'row')} of {self.compared:,} differ"
        if not self.num_different:
            verdict = f"all {plural(self.compared, 'row')} are equal" if self.compared else "no row to compare"
        lines = [f"{self.folder}: {verdict}"]
        what = "all, in the units of the job"
        if not self.whole_units:
            what = f"{self.compared:,} of {self.rows:,}, drawn with seed={self.seed}, each without its unit"
        lines.append(f"  rows         {what}")
        lines += [f"  left out     {number:,} {reason}" for reason, number in sorted(self.left_out.items())]
        lines += [f"  environment  {key}: {job!r} in the job, {here!r} here" for key, job, here in self.environment]
        if not self.environment and self.compared:
            lines.append("  environment  as in the job")
        for row in self.different[:MAX_SHOWN]:
            status = f" ({row.recorded_status} -> {row.new_status})" if row.recorded_status != row.new_status else ""
            lines += [f"  different    {row.id}{status}", f"    published  {row.recorded}", f"    decoded    {row.new}"]
        if self.num_different > MAX_SHOWN:
            lines.append(f"  different    and {self.num_different - MAX_SHOWN:,} more")
        if self.num_different:
            lines += [f"  possible     {cause}" for cause in self.causes]
        return "\n".join(lines)

    def _changed_lines(self) -> list[str]:
        lines = []
        for file in self.changed_files:
            lines.append(f"  damage       {file.path} {file.what}")
            lines += [f"    differs    {row}" for row in file.rows]
        lines.append("  Run the job again: it keeps the changed file in set_aside/, and publishes its own.")
        return lines


def possible_causes(
    *, whole_units: bool, dtype: str, samples: bool, environment: Sequence[object], has_origins: bool
) -> list[str]:
    """Return what may explain a difference, as sentences without full stop; [] if nothing is known that may.

    Args:
        whole_units: What the job decoded together was decoded together again.
        dtype: In which the network computes.
        samples: The job draws tokens, at least in second tries.
        environment: How the environments differ.
        has_origins: Rows of the job are from an earlier version of their file.
    """
    causes = []
    if environment:
        causes.append("rounding: the environments differ")
    if dtype != "float32" and (not whole_units or has_origins):
        fix = "rows=all decodes the units of the job" if not whole_units else "an update decoded rows in other units"
        causes.append(f"rounding: in {dtype}, a text may depend on what is decoded with it; {fix}")
    if samples and not whole_units:
        causes.append("equal rows of a part share one draw, that of the first of them; rows=all draws as the job did")
    return causes
