"""A file system in memory with a volatile and a durable state; it gives the states that a kill or power loss may leave.

Only an explicit sync makes anything durable. Each change of a folder is pending until the folder is synced, each write
until the file is synced. After a failed fsync the dirty bytes are lost, as in real kernels (ATC'20). `survivors` gives
the states that a power loss may leave: any subset of the pending changes of names, or a prefix of them (for each folder
or overall), and one of `DATA` for each unsynced file. A rename within a folder is atomic; a rename across folders is
not. The file system can also behave like a faulty network file system: refuse links, hide names from listings, show
removed names, and report failure for a call that took effect.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hymt_batch.fs_protocol import Stat

Change = tuple[str, int]  # name and inode; -1 if the name is removed
# from the synced and the volatile bytes of a file, its bytes after a power loss
DATA: dict[str, Callable[[bytes, bytes], bytes]] = {
    "old": lambda old, new: old,
    "whole": lambda old, new: new,
    "empty": lambda old, new: b"",
    "half": lambda old, new: new[: len(new) // 2],
    "one byte short": lambda old, new: new[:-1],
    "zeros": lambda old, new: bytes(len(new)),
    "zeros from half": lambda old, new: new[: len(new) // 2] + bytes(len(new) - len(new) // 2),
}
MOST_CALLS = 20_000  # limit for one run of a small job, which needs about 200
NAMES = ("none", "all", "ordered", "prefix", "subset")


class EndlessRunError(RuntimeError):
    """A run makes so many calls that it does not end."""


class Crash(BaseException):
    """The process died; nothing runs after this."""


@dataclass(slots=True)
class Node:
    kind: str
    data: bytes = b""
    durable: bytes | None = None  # None: never synced
    clean: bool = False  # a sync failed and lost the dirty bytes: no later sync makes them durable
    names: dict[str, int] = field(default_factory=dict)
    synced: dict[str, int] | None = None  # None: equal to `names`
    pending: list[tuple[int, tuple[Change, ...]]] = field(default_factory=list)  # (index of the change, atomic steps)
    removed: set[str] = field(default_factory=set)


class SimFS:
    """Implements `hymt_batch.fs_protocol.Fs`. `count` is the number of changes so far, `calls` that of all calls."""

    def __init__(self, *, crash_at: int | None = None, links: bool = True, dir_sync: bool = True) -> None:
        self.nodes: dict[int, Node] = {0: Node("dir")}
        self.open: dict[int, int] = {}
        self.count = self.calls = 0
        self.crash_at, self.dead = crash_at, False
        self.links, self.dir_sync = links, dir_sync
        self.before: Callable[[SimFS], None] | None = None  # called before each change, after `count` is increased
        self.errors: dict[int, tuple[int, bool]] = {}  # index of a call -> (errno, whether it takes effect)
        self.syncs: list[int] = []  # indexes of the calls that synced a file
        self.stale: random.Random | None = None  # decides which names a listing hides, and which removed names it shows
        self._next = 1

    # interface Fs

    def within(self, folder: Path) -> SimFS:
        return self  # there are no symbolic links

    def open_exclusive(self, path: Path) -> int:
        late = self._change()
        parent = self._dir(path.parent)
        if path.name in parent.names:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        inode = self._new("file")
        self._rename(parent, (path.name, inode))
        self.open[inode] = inode
        self._fail(late)
        return inode

    def write_all(self, fd: int, data: bytes) -> None:
        node = self.nodes[self.open[fd]]
        whole = node.data + data
        node.data += data[: len(data) // 2]  # a crash during the write leaves half of the data
        late = self._change()
        node.data, node.clean = whole, False
        self._fail(late)

    def fsync(self, fd: int) -> None:
        node = self.nodes[self.open[fd]]
        try:
            late = self._change()
        except OSError:
            node.clean = True
            raise
        self.syncs.append(self.calls)
        if not node.clean:
            node.durable = node.data
        self._fail(late)

    def close(self, fd: int) -> None:
        late = self._change()
        del self.open[fd]
        self._fail(late)

    def link(self, source: Path, target: Path) -> None:
        late = self._change()
        if not self.links:
            raise OSError(errno.EPERM, "no hard links here", str(target))
        inode, parent = self._inode(source), self._dir(target.parent)
        if target.name in parent.names:
            raise FileExistsError(errno.EEXIST, "exists", str(target))
        self._rename(parent, (target.name, inode))
        self._fail(late)

    def rename(self, source: Path, target: Path) -> None:
        late = self._change()
        inode, old, new = self._inode(source), self._dir(source.parent), self._dir(target.parent)
        taken = self.nodes.get(new.names.get(target.name, -1))
        if taken is not None and taken.kind == "dir" and taken.names:
            raise OSError(errno.ENOTEMPTY, "not empty", str(target))
        if new.names.get(target.name) != inode:  # POSIX: a rename between two names of one file has no effect
            if old is new:
                self._rename(old, (source.name, -1), (target.name, inode))
            else:
                self._rename(new, (target.name, inode))
                self._rename(old, (source.name, -1))
        self._fail(late)

    def unlink(self, path: Path) -> None:
        late = self._change()
        if self.nodes[self._inode(path)].kind == "dir":
            raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
        self._rename(self._dir(path.parent), (path.name, -1))
        self._fail(late)

    def mkdir(self, path: Path, mode: int) -> None:
        late = self._change()
        parent = self._dir(path.parent)
        if path.name in parent.names or path.parent == path:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        self._rename(parent, (path.name, self._new("dir")))
        self._fail(late)

    def rmdir(self, path: Path) -> None:
        late = self._change()
        if self._dir(path).names:
            raise OSError(errno.ENOTEMPTY, "not empty", str(path))
        self._rename(self._dir(path.parent), (path.name, -1))
        self._fail(late)

    def fsync_dir(self, path: Path) -> bool:
        late = self._change()
        node = self._dir(path)
        if self.dir_sync:
            node.synced, node.pending = None, []
        self._fail(late)
        return self.dir_sync

    def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
        self._call()
        node = self.nodes[self._inode(path)]
        if node.kind != "file":
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if size is None:
            return node.data[start:] if start else node.data
        return node.data[start : start + size]

    def stat(self, path: Path) -> Stat:
        self._call()
        inode = self._inode(path)
        node = self.nodes[inode]
        return Stat(node.kind, len(node.data), 0, inode, 1)

    def listdir(self, path: Path) -> list[str]:
        self._call()
        node = self._dir(path)
        if self.stale is None:
            return sorted(node.names)
        shown = {name for name in sorted(node.names) if self.stale.random() < 0.5}
        return sorted(shown | {name for name in sorted(node.removed) if self.stale.random() < 0.5})

    def writable(self, path: Path) -> bool:
        return True

    def statvfs(self, path: Path) -> tuple[int, int | None]:
        self._call()
        return 1 << 40, None

    # internals

    def _call(self) -> OSError | None:
        """Count a call; raise an error that prevents it, or return an error to raise after it took effect."""
        if self.dead:
            raise Crash
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise EndlessRunError("the job does not end")
        if self.calls in self.errors:
            code, takes_effect = self.errors[self.calls]
            error = OSError(code, f"simulated {errno.errorcode[code]}")
            if not takes_effect:
                raise error
            return error
        return None

    def _change(self) -> OSError | None:
        if self.dead:
            raise Crash
        self.count += 1
        if self.count == self.crash_at:
            self.dead = True
            raise Crash
        if self.before is not None:
            self.before(self)
        return self._call()

    @staticmethod
    def _fail(late: OSError | None) -> None:
        if late is not None:
            raise late

    def _new(self, kind: str) -> int:
        self.nodes[self._next] = Node(kind)
        self._next += 1
        return self._next - 1

    def _rename(self, parent: Node, *changes: Change) -> None:
        if parent.synced is None:
            parent.synced = dict(parent.names)
        _apply(changes, parent.names)
        parent.pending.append((self.count, changes))
        parent.removed.update(name for name, inode in changes if inode < 0)

    def _inode(self, path: Path) -> int:
        inode = 0
        for name in path.parts[1:]:
            node = self.nodes[inode]
            if node.kind != "dir":
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
            if name not in node.names:
                raise FileNotFoundError(errno.ENOENT, "missing", str(path))
            inode = node.names[name]
        return inode

    def _dir(self, path: Path) -> Node:
        node = self.nodes[self._inode(path)]
        if node.kind != "dir":
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
        return node

    # after a crash

    def after_kill(self) -> SimFS:
        """Return a copy as after a kill: unsynced changes stay pending; injected errors and stale listings are off."""
        copy = self._like()
        for inode, node in self.nodes.items():
            copy.nodes[inode] = Node(
                node.kind, node.data, node.durable, node.clean, dict(node.names), node.synced, list(node.pending)
            )
        return copy

    def unsynced(self) -> list[int]:
        """Return the inodes of files whose bytes a power loss may change."""
        return [i for i, node in self.nodes.items() if node.kind == "file" and node.durable != node.data]

    def pending(self) -> list[tuple[int, int, tuple[Change, ...]]]:
        """Return, in order, the changes that a power loss may undo, as (index, inode of the folder, steps)."""
        return sorted((when, i, what) for i, node in self.nodes.items() for when, what in node.pending)

    def survivors(self, rng: random.Random, most: int) -> Iterator[tuple[str, SimFS]]:
        """Yield states that a power loss may leave, each with a description: all states if there are at most `most`."""
        pending, files = self.pending(), self.unsynced()
        if len(DATA) ** len(files) << len(pending) <= most:
            for kept in itertools.product((False, True), repeat=len(pending)):
                for data in itertools.product(DATA, repeat=len(files)):
                    name = f"names {''.join('01'[keep] for keep in kept)}, data {', '.join(data) or '-'}"
                    yield name, self.after_power_loss(dict(zip(files, data, strict=True)), kept)
            return
        for index in range(most):
            names = NAMES[index % len(NAMES)] if most >= len(NAMES) else rng.choice(NAMES)
            kept = self._kept(names, pending, rng)
            chosen = {inode: rng.choice(list(DATA)) for inode in files}
            name = f"names {names} {''.join('01'[keep] for keep in kept)}, data {', '.join(chosen.values()) or '-'}"
            yield name, self.after_power_loss(chosen, kept)

    @staticmethod
    def _kept(names: str, pending: list[tuple[int, int, tuple[Change, ...]]], rng: random.Random) -> tuple[bool, ...]:
        if names in ("none", "all"):
            return (names == "all",) * len(pending)
        if names == "ordered":
            last = rng.randint(0, len(pending))
            return tuple(index < last for index in range(len(pending)))
        if names == "prefix":
            last_of = {folder: rng.choice([-1, *(w for w, f, _ in pending if f == folder)]) for _, folder, _ in pending}
            return tuple(when <= last_of[folder] for when, folder, _ in pending)
        return tuple(rng.random() < 0.5 for _ in pending)

    def after_power_loss(self, data: dict[int, str] | str = "old", kept: tuple[bool, ...] = ()) -> SimFS:
        """Return a copy as after a power loss: the `kept` changes and, of unsynced files, `data` reached the disk."""
        copy, names_of = self._like(), dict[int, dict[str, int]]()
        for (_, folder, what), stays in zip(self.pending(), kept, strict=False):
            if stays:
                _apply(what, names_of.setdefault(folder, dict(self.nodes[folder].synced or {})))
        todo = [0]
        while todo:  # files without a name are lost
            inode = todo.pop()
            if inode in copy.nodes and inode:
                continue
            node = self.nodes[inode]
            if node.kind == "dir":
                names = (
                    names_of[inode] if inode in names_of else dict(node.names if node.synced is None else node.synced)
                )
                copy.nodes[inode] = Node("dir", names=names)
                todo += names.values()
            else:
                choice = data if isinstance(data, str) else data.get(inode, "old")
                survived = node.data if node.durable == node.data else DATA[choice](node.durable or b"", node.data)
                copy.nodes[inode] = Node("file", survived, survived)
        return copy

    def _like(self) -> SimFS:
        copy = SimFS(links=self.links, dir_sync=self.dir_sync)
        copy._next, copy.count = self._next, self.count
        return copy

    def tree(self) -> dict[str, bytes | None]:
        """Return the bytes of every file, and None for every folder, by path."""
        tree: dict[str, bytes | None] = {}
        todo = [("", 0)]
        while todo:
            path, inode = todo.pop()
            for name, child in self.nodes[inode].names.items():
                node = self.nodes[child]
                tree[f"{path}/{name}"] = node.data if node.kind == "file" else None
                if node.kind == "dir":
                    todo.append((f"{path}/{name}", child))
        return tree

    def stat_of(self, path: str) -> tuple[int, int]:
        """Return inode and size; (0, 0) if the path does not exist."""
        try:
            inode = self._inode(Path(path))
        except OSError:
            return 0, 0
        return inode, len(self.nodes[inode].data)

    def set(self, path: str, data: bytes | None) -> None:
        """Change a file from outside the job; None removes it."""
        parent, name = self._dir(Path(path).parent), Path(path).name
        if data is None:
            del parent.names[name]
            if parent.synced is not None:
                parent.synced = {key: inode for key, inode in parent.synced.items() if key != name}
        else:
            if name not in parent.names:
                parent.names[name] = self._new("file")
                if parent.synced is not None:
                    parent.synced = {**parent.synced, name: parent.names[name]}
            node = self.nodes[parent.names[name]]
            node.data, node.durable = data, data


def _apply(changes: tuple[Change, ...], names: dict[str, int]) -> None:
    for name, inode in changes:
        if inode < 0:
            names.pop(name, None)
        else:
            names[name] = inode
