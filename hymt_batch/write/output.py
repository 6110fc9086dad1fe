"""The output folder of one job: open it, commit parts, finish files, finalize.

What a part is, how it is committed, who may write and how a file is assembled have modules of their own beside this
one. Does not know the model, nor how parts are planned.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import DeviceError, ExitCode, HymtError, MissingError, PreflightError, StoppedError
from hymt_batch.fs import OS, Fs, exists, remove, same, write_atomic
from hymt_batch.manifest import Job, Plain
from hymt_batch.records import Document, Input, Part, Preamble, Row, Shard, ShardRecord
from hymt_batch.store_error import refused
from hymt_batch.write import aside, ending, final, finished, folder, lease, located, ownership, versions
from hymt_batch.write import place as places
from hymt_batch.write.attempts import Attempts
from hymt_batch.write.commit import Commits, record_of_shard
from hymt_batch.write.final import Assembly
from hymt_batch.write.inputs import changed, changed_shards, hash_input
from hymt_batch.write.kept import Kept, differs
from hymt_batch.write.lease import Lease
from hymt_batch.write.settings import OnError, WriteConfig, WriteFormat
from hymt_batch.write.shard_table import ShardTable
from hymt_batch.write.store import Folders, check_space, probe, storing
from hymt_batch.write.summary import Summary, summarize

log = logging.getLogger(__name__)

__all__ = ["OnError", "Output", "Summary", "WriteConfig", "WriteFormat"]


@dataclass(frozen=True, slots=True)
class _Published:
    record: Plain  # without its shards
    shards: ShardTable


class Output:
    """An output folder, held by this process until the end of the `with` block."""

    def __init__(
        self,
        place: Path,
        job: Job,
        *,
        identity: Plain,
        environment: Plain,
        inputs: Sequence[Input],
        config: WriteConfig,
        read: Callable[[Input], Iterator[Document]],
        preamble: Callable[[Input], Preamble],
        redo: bool,
        held: Lease | None,
        fs: Fs,
    ) -> None:
        """Use `open`."""
        self.folder, self.finished, self._ended = place, False, False
        self.identity = identity  # of the folder's job, in the words of this version
        self._job, self._inputs, self._config, self._read, self._preamble = job, tuple(inputs), config, read, preamble
        self._redo, self._lease, self._fs, self._began = redo, held, fs, time.monotonic()
        self._kept, self._folders = Kept(fs, place, job.key), Folders(fs, place)
        self._commits = Commits(fs, self._kept, self._folders, job.key, environment, redo=redo, held=held)
        self.attempts = Attempts(fs, place)
        self._published: dict[str, _Published] = {}  # file_id -> its finished file
        self._complete: dict[str, ShardTable] = {}  # file_id -> its complete shards
        self._told: Plain | None = None  # the manifest of a finished job whose state is gone
        self._made: dict[str, str] = {}  # file_id -> sha256 of a file that this job made, and that is made again

    @classmethod
    def open(
        cls,
        place: Path,
        *,
        identity: Plain,
        environment: Plain,
        inputs: Sequence[Input],
        config: WriteConfig,
        read: Callable[[Input], Iterator[Document]],
        preamble: Callable[[Input], Preamble],
        overwrite: bool = False,
        on_mismatch: str = "refuse",
        on_input_change: str = "refuse",
        own: Collection[str] = (),
        aliases: Sequence[Plain] = (),
        lease_ttl_s: float = 180.0,
        lease_beat_s: float = 20.0,
        fs: Fs = OS,
    ) -> Output:
        """Settle whose folder it is, take the lease, and see what is done. Before that, nothing is touched.

        Args:
            place: The folder asked for; with fork, `folder` tells the one that was found.
            identity: Every setting that changes the text; a nested dict of plain values.
            environment: What may change a text by rounding; recorded in each part.
            inputs: In the order of the manifest.
            config: How translations are stored.
            read: A fresh pass over an input's documents, in row order.
            preamble: What stands before an input's first row.
            overwrite: Start over, whatever the folder holds.
            on_mismatch: "refuse" or "fork".
            on_input_change: "refuse", "redo" or "fork".
            own: Keys of the identity that the folder's job decided when it was made, such as "batch.part_rows";
                `identity` has what a new folder gets. `self.identity` tells what holds.
            aliases: Other identities with which this very job may have been made, for a folder that lost its job.json.
            lease_ttl_s: A holder silent for so long is taken for dead; 0 takes no lease (safe, but work is done twice).
            lease_beat_s: Seconds between two signs of life.
            fs: The store.

        Raises:
            IdentityError: The folder belongs to a job with other settings.
            InputChangedError: Files were added, removed or changed.
            LeaseError: Another process works there.
            PreflightError: The store cannot hold the output.
        """
        fs = fs.within(place)
        places.check_names(inputs, place)
        wanted = ownership.Wanted(
            manifest.new_job(identity, inputs, environment), frozenset(own), tuple(map(manifest.plain, aliases))
        )
        held: Lease | None = None
        try:
            places.check_state(fs, place)
            place = ownership.choose(
                fs,
                place,
                wanted,
                overwrite=overwrite,
                on_mismatch=on_mismatch,
                on_input_change=on_input_change,
                differs=lambda other, job: differs(fs, other, wanted.under(job.identity), read),
            )
            places.check_state(fs, place)
            places.check_inputs(fs, place, inputs)
            folders = Folders(fs, place)
            for name in (".hymt/lease", ".hymt/quarantine", "translated"):
                folders.ensure(place / name)
            if lease_ttl_s > 0:
                held = lease.acquire(fs, place, ttl_s=lease_ttl_s, beat_s=lease_beat_s)
            ending.clear(fs, place)
            if held:
                folder.sweep(fs, place, inputs)
            probe(fs, place)
            job = ownership.settle(fs, place, wanted, overwrite=overwrite, on_input_change=on_input_change)
            differences = manifest.diff(job.environment, wanted.job.environment)
            # what an earlier version did not record is no change that anybody made
            if added := [one for one in differences if one[1] is manifest.MISSING]:
                log.info("environment is now recorded with:\n%s", manifest.explain(added))
            if others := [one for one in differences if one[1] is not manifest.MISSING]:
                log.warning("environment differs from the job's first run:\n%s", manifest.explain(others))
            output = cls(
                place,
                job,
                identity=versions.current(job.identity, wanted.job.identity),
                environment=wanted.job.environment,
                inputs=inputs,
                config=config,
                read=read,
                preamble=preamble,
                redo=on_input_change == "redo",
                held=held,
                fs=fs,
            )
            output._survey()
            open_inputs = [i for i in inputs if i.file_id not in output._published]
            if open_inputs:
                check_space(fs, place, open_inputs, config.min_free)
                places.check_writable(fs, place, open_inputs)
            if not output.finished:
                located.note(fs, place, inputs)
            return output
        except BaseException as error:
            told: BaseException = refused(place, error) if isinstance(error, OSError) else error
            try:
                if held and isinstance(error, (OSError, PreflightError)):
                    held.check()  # whoever took over swept away what we were trying out: that is the cause
                if held and isinstance(error, Exception):
                    ending.write(fs, place, *ending.of(told))
            finally:
                if held:
                    held.release()
            if told is not error:
                raise told from error
            raise

    def made_in(self, environment: Plain) -> None:
        """Record another environment in the parts to come, once it is settled."""
        self._commits.made_in(environment)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        orderly = error is None or isinstance(error, HymtError)
        self._ended = True
        if isinstance(error, (Exception, KeyboardInterrupt)):
            self._tell(*ending.of(error))
        self.close(orderly=orderly and not isinstance(error, DeviceError))

    def _tell(self, code: ExitCode, why: str) -> None:
        """Keep why this run stops, unless another one goes on in the folder."""
        with contextlib.suppress(StoppedError):
            self._commits.check_lease()
            ending.write(self._fs, self.folder, code, why)

    def close(self, *, orderly: bool = True) -> None:
        """Give the lease back; what is committed stays. Unless `orderly`, the parts under way are to blame."""
        if not self._ended:  # within the `with` block: the process ends at once
            self._ended = True
            self._tell(ExitCode.STOPPED, "a signal stopped it at once" if orderly else "a step did not end")
        if orderly:
            self.attempts.give_back()
        if self._lease:
            self._lease.release()
            self._lease = None

    def _survey(self) -> None:
        """Which files are published and whole, of inputs that are what they were."""
        self._told = finished.told(self._fs, self.folder, self._job.identity, self._inputs, redo=self._redo)
        if self._told is not None:
            log.warning("%s: %s", self.folder.name, finished.NOTE)
            self.finished = True
            return
        made = aside.made(self._fs, self.folder)
        for input in self._inputs:
            record = final.read_record(self._fs, self.folder, input)
            if record is None or record["identity"] != self._job.key:
                self._made.update({input.file_id: made[input.out_rel]} if input.out_rel in made else {})
                continue
            unchanged = hash_input(input) == record["input"]
            if not unchanged and not self._kept.any(input.file_id):
                if not self._redo:
                    raise changed(changed_shards(input, list(final.shards(record))))
            elif unchanged and final.standing(self._fs, self.folder, record):
                self._take(input, record)
                continue
            self._made[input.file_id] = record["output"]["sha256"]
            remove(self._fs, final.record_path(self.folder, input))
        path = self.folder / "manifest.json"
        if exists(self._fs, path) is None:
            return
        if len(self._published) == len(self._inputs):
            self.finished = same(self._fs, path, manifest.build(self._job, self._records()))
        else:  # it proves files that are about to be replaced
            remove(self._fs, path)
        self._fs.fsync_dir(self.folder)  # whoever wrote it may have been killed before it did so

    def _take(self, input: Input, record: Plain) -> None:
        shards = final.shards(record)
        self._published[input.file_id] = _Published({k: v for k, v in record.items() if k != "shards"}, shards)
        self._complete.pop(input.file_id, None)

    def _records(self) -> list[Plain]:
        return [self._published[i.file_id].record for i in self._inputs]

    def holds_one_line(self, input: Input) -> bool:
        """Whether the output of an input cannot hold a line break inside a translation."""
        return final.out_format(input, self._config) in ("text", "tsv")

    def record(self, input: Input, shard_index: int) -> ShardRecord | None:
        """What a complete shard was made of, so that a run can skip it; None while any of its parts is missing."""
        published = self._published.get(input.file_id)
        return published.shards.get(shard_index) if published else self._commits.record(input, shard_index)

    def has(self, shard: Shard, part: Part) -> bool:
        """Whether a part is committed, whole, and made of these very rows.

        Raises:
            InputChangedError: It was made of other rows, and on_input_change is not redo.
        """
        if (published := self._published.get(shard.input.file_id)) is None:
            return self._commits.has(shard, part)
        record = published.shards.get(shard.index)
        if record is None or (record.sha256, record.first_row) != (shard.sha256, shard.first_row):
            if self._redo:
                # two runs without a lease, while the input changed: the rows are right, but the record names the
                # shards of an earlier reading, and so would stop every run; without it the file is assembled anew
                with storing(f"the record of {shard.input.rel}"):
                    self._made[shard.input.file_id] = published.record["output"]["sha256"]
                    remove(self._fs, final.record_path(self.folder, shard.input))
                    self._fs.fsync_dir(final.record_path(self.folder, shard.input).parent)
            again = "run the same command again; if it says this again, set on_input_change=redo"
            raise changed(f"{shard.name} is not what it was when this run began", again)
        return True

    def commit(self, shard: Shard, part: Part, rows: Sequence[Row], degraded: Sequence[str] = ()) -> None:
        """Publish a part: the one commit point. When this returns, a power loss does not undo it.

        Raises:
            StoppedError: The lease is lost, or the store refused three times.
        """
        self._commits.commit(shard, part, rows, degraded)
        self.attempts.end(shard, part)

    def finish(self, shard: Shard) -> None:
        """Call when all parts of a shard are committed; the last one of a file publishes the file. Idempotent."""
        if shard.input.file_id in self._published or shard.index in self._complete.get(shard.input.file_id, ()):
            return
        if missing := self._commits.missing(shard):
            raise MissingError(f"{shard.name} is not complete: its parts {missing} are not committed.")
        self.finish_record(shard.input, record_of_shard(shard))

    def finish_record(self, input: Input, record: ShardRecord) -> None:
        """`finish` for a shard that was skipped on the word of `record()`."""
        if input.file_id in self._published:
            return
        complete = self._complete.setdefault(input.file_id, ShardTable())
        complete.add(record)
        self._commits.forget(input.file_id, record.index)
        if not complete.whole:
            return
        assembly = Assembly(
            input=input,
            records=complete,
            load=lambda one: self._kept.load_shard(input.file_id, one),
            read=self._read,
            preamble=self._preamble,
            config=self._config,
            identity=self._job.key,
            check=self._commits.check_lease,
            folders=self._folders.ensure,
            spare=lambda sha256: self._spare(input, sha256),
        )
        try:
            with storing(f"translated/{input.out_rel}"):
                self._folders.ensure(manifest.translated(self.folder, input.out_rel).parent)
                made = final.assemble(self._fs, self.folder, assembly)
        except StoppedError:
            # another process may have published the file, and removed its parts, before we came to it
            found = final.read_record(self._fs, self.folder, input)
            if found is None or found["identity"] != self._job.key or not final.standing(self._fs, self.folder, found):
                raise
            made = found
        self._take(input, made)

    def _spare(self, input: Input, sha256: str) -> None:
        ours = (sha256, self._made.pop(input.file_id, None))
        aside.spare(self._fs, self.folder, input.out_rel, ours, self._folders.ensure)

    def finalize(self) -> Summary:
        """Write the manifest, when every file is published, and then remove the parts. Killed anywhere: run again.

        Raises:
            MissingError: A file is not complete; names what is missing.
        """
        if self._told is not None:
            return finished.summarize(self.folder, self._told, time.monotonic() - self._began)
        missing = [self._what_is_missing(i) for i in self._inputs if i.file_id not in self._published]
        if missing:
            more = [f"  and {len(missing) - 20} more files"] if len(missing) > 20 else []
            lines = "\n".join(missing[:20] + more)
            raise MissingError(f"{self.folder.name} is not complete. Run the same command again to make:\n{lines}")
        if not self.finished:
            with storing("manifest.json"):
                # published by a run that was killed before it synced the names? The manifest must not be there first
                for place in dict.fromkeys(place for i in self._inputs for place in self._places(i)):
                    self._fs.fsync_dir(place)
                self._commits.check_lease()
                write_atomic(self._fs, self.folder / "manifest.json", manifest.build(self._job, self._records()))
            self.finished = True
        self.attempts.clear()
        ending.clear(self._fs, self.folder)
        for input in self._inputs:  # last of all: nothing needs the parts any more
            folder.tidy(self._fs, manifest.file_state(self.folder, input.file_id))
        return summarize(self.folder, self._records(), time.monotonic() - self._began, self._commits.num_rows)

    def _places(self, input: Input) -> Iterator[Path]:
        """Folders of a published file and of what is known of it."""
        yield manifest.translated(self.folder, input.out_rel).parent
        yield manifest.file_state(self.folder, input.file_id)
        if self._published[input.file_id].record["errors"]:
            yield manifest.errors_file(self.folder, input.rel).parent

    def _what_is_missing(self, input: Input) -> str:
        complete = self._complete.get(input.file_id, ShardTable())
        last = complete.last
        end = complete.end if last is None else last
        gaps = [str(index) for index in range(end) if index not in complete]
        if last is None:
            gaps.append(f"{end} to the end")
        return f"  {input.rel}: shards {', '.join(gaps[:20])}{' and more' if len(gaps) > 20 else ''}"
