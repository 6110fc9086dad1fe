"""What is wrong in an output folder, as fields. `verify` and `status` report it; finds nothing itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

from hymt_batch.errors import Problem


class Kind(StrEnum):
    """What a problem means for the output."""

    DAMAGE = "damage"  # it is not what the job wrote
    OBSTACLE = "obstacle"  # damage: a path is not the expected kind, such as a link in place of a folder
    FOREIGN = "foreign"  # damage: it does not belong to the job
    UNREADABLE = "unreadable"  # this user has no permission to read it; it may be intact
    CHANGED = "changed"  # an input changed or is missing
    MISSING = "missing"  # not yet written


WHAT = {Kind.MISSING: "is missing", Kind.UNREADABLE: "this user may not read it"}
"""What is wrong with a subject for which nothing else is known."""

FIXES = {
    Kind.DAMAGE: "Run the job again to rebuild what is damaged or missing.",
    Kind.OBSTACLE: "Move away what blocks the path of an expected file or folder, then run the job again.",
    Kind.FOREIGN: "Move away the files that do not belong to this job.",
    Kind.UNREADABLE: "Run this as the user who ran the job, or give this user read permission (chmod, chown).",
    Kind.CHANGED: "Restore the old inputs, or set on_input_change=redo to translate the changed rows.",
    Kind.MISSING: "Run the job again to rebuild what is damaged or missing.",
}


@dataclass(frozen=True, slots=True)
class FolderFinding:
    """One problem of an output folder or of its inputs."""

    kind: Kind
    subject: str  # a path below the folder, an input, or rows of one: "in.txt shard 3"
    problem: Problem | None = None  # None if the kind says it all

    @property
    def line(self) -> str:
        """The finding as one line of a report."""
        if self.problem is None:
            return self.subject
        return f"{self.subject}: {self.problem.message if self.problem.fix else self.problem.statement}"

    def to_json(self) -> dict[str, str]:
        """Return kind, subject, what, why, fix and id; the fix of the kind if the problem has none of its own."""
        fields = asdict(self.problem or Problem(what=WHAT[self.kind]))
        return {"kind": self.kind.value, "subject": self.subject, **fields, "fix": fields["fix"] or FIXES[self.kind]}


class Findings(list[FolderFinding]):
    """The findings of one folder."""

    def add(self, kind: Kind, subject: object, what: str = "") -> None:
        """Append a finding; `what` is "" if the kind says it all."""
        self.append(FolderFinding(kind, str(subject), Problem(what=what) if what else None))

    def lines(self, *kinds: Kind) -> list[str]:
        """Return the lines of the findings of some kinds, kind by kind; without kinds, of all."""
        if not kinds:
            return [finding.line for finding in self]
        return [finding.line for kind in kinds for finding in self if finding.kind is kind]

    def subjects(self, *kinds: Kind) -> set[str]:
        return {finding.subject for finding in self if finding.kind in kinds}

    def without_duplicates(self) -> Findings:
        """Keep one finding of a damaged path: that it is an obstacle, else that it is foreign, else its damage."""
        obstacles, foreign = self.subjects(Kind.OBSTACLE), self.subjects(Kind.FOREIGN)
        reported = {Kind.FOREIGN: obstacles, Kind.DAMAGE: obstacles | foreign}
        return Findings(finding for finding in self if finding.subject not in reported.get(finding.kind, ()))

    def to_json(self) -> list[dict[str, str]]:
        return [finding.to_json() for finding in self]
