"""A store in memory that can crash at every operation, with a volatile and a durable state.

What survives a power loss is chosen by the caller: unsynced data as before, whole, empty, half or zeros; unsynced names
of a folder none, all, a prefix or any subset. A killed process loses nothing that it had told the store.
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from pathlib import Path

from hymt_batch.fs import Stat

Operation = tuple[str, str, int]  # "set" or "del", name, inode; a rename in one folder is one list of them
DATA = ("old", "whole", "empty", "half", "zeros")
NAMES = ("none", "all", "prefix", "subset")


class Crash(BaseException):
    """The machine stopped; nothing after it runs."""


@dataclass
class Node:
    kind: str
    data: bytes = b""
    durable: bytes | None = None  # None: never synced
    names: dict[str, int] = field(default_factory=dict)
    durable_names: dict[str, int] = field(default_factory=dict)
    pending: list[list[Operation]] = field(default_factory=list)

    def apply(self, operations: list[Operation], names: dict[str, int]) -> None:
        for kind, name, inode in operations:
            if kind == "set":
                names[name] = inode
            else:
                names.pop(name, None)


class SimFS:
    """The port, in memory. `crash_at` counts the operations that change something, from 1."""

    def __init__(self, *, crash_at: int | None = None, file_sync: bool = True, dir_sync: bool = True) -> None:
        self.nodes: dict[int, Node] = {0: Node("dir")}
        self.open: dict[int, int] = {}
        self.count, self.crash_at, self.dead = 0, crash_at, False
        self.file_sync, self.dir_sync = file_sync, dir_sync
        self._next = 1

    # the port

    def open_exclusive(self, path: Path) -> int:
        self._tick()
        parent = self._dir(path.parent)
        if path.name in parent.names:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        inode = self._new("file")
        self._change(parent, [("set", path.name, inode)])
        fd = 1000 + self.count
        self.open[fd] = inode
        return fd

    def write_all(self, fd: int, data: bytes) -> None:
        node = self.nodes[self.open[fd]]
        try:
            self._tick()
        except Crash:
            node.data += data[: len(data) // 2]
            raise
        node.data += data

    def fsync(self, fd: int) -> None:
        self._tick()
        node = self.nodes[self.open[fd]]
        if self.file_sync:
            node.durable = node.data

    def close(self, fd: int) -> None:
        self._tick()
        del self.open[fd]

    def link(self, source: Path, target: Path) -> None:
        self._tick()
        inode, parent = self._inode(source), self._dir(target.parent)
        if target.name in parent.names:
            raise FileExistsError(errno.EEXIST, "exists", str(target))
        self._change(parent, [("set", target.name, inode)])

    def rename(self, source: Path, target: Path) -> None:
        self._tick()
        inode, old, new = self._inode(source), self._dir(source.parent), self._dir(target.parent)
        if new.names.get(target.name) == inode:
            return  # two names of one file: POSIX does nothing
        if old is new:
            self._change(old, [("del", source.name, 0), ("set", target.name, inode)])
        else:
            self._change(new, [("set", target.name, inode)])
            self._change(old, [("del", source.name, 0)])

    def unlink(self, path: Path) -> None:
        self._tick()
        self._inode(path)
        self._change(self._dir(path.parent), [("del", path.name, 0)])

    def mkdir(self, path: Path, mode: int) -> None:
        self._tick()
        parent = self._dir(path.parent)
        if path.name in parent.names:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        self._change(parent, [("set", path.name, self._new("dir"))])

    def rmdir(self, path: Path) -> None:
        self._tick()
        if self._dir(path).names:
            raise OSError(errno.ENOTEMPTY, "not empty", str(path))
        self._change(self._dir(path.parent), [("del", path.name, 0)])

    def fsync_dir(self, path: Path) -> bool:
        self._tick()
        node = self._dir(path)
        if self.dir_sync:
            node.durable_names, node.pending = dict(node.names), []
        return True

    def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
        self._alive()
        data = self.nodes[self._inode(path)].data
        return data[start:] if size is None else data[start : start + size]

    def stat(self, path: Path) -> Stat:
        self._alive()
        inode = self._inode(path)
        node = self.nodes[inode]
        return Stat(node.kind, len(node.data), 0, inode, 1, 1)

    def listdir(self, path: Path) -> list[str]:
        self._alive()
        return sorted(self._dir(path).names)

    def statvfs(self, path: Path) -> tuple[int, int | None]:
        self._alive()
        return 1 << 40, None

    # what is inside

    def _alive(self) -> None:
        if self.dead:
            raise Crash

    def _tick(self) -> None:
        self._alive()
        self.count += 1
        if self.count == self.crash_at:
            self.dead = True
            raise Crash

    def _new(self, kind: str) -> int:
        self.nodes[self._next] = Node(kind)
        self._next += 1
        return self._next - 1

    def _change(self, parent: Node, operations: list[Operation]) -> None:
        parent.apply(operations, parent.names)
        parent.pending.append(operations)

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

    def after_kill(self, crash_at: int | None = None) -> SimFS:
        """The process died, the machine did not: what is unsynced stays so."""
        other = self._like(crash_at)
        for inode, node in self.nodes.items():
            pending = [list(o) for o in node.pending]
            other.nodes[inode] = Node(
                node.kind, node.data, node.durable, dict(node.names), dict(node.durable_names), pending
            )
        return other

    def after_power_loss(self, data: str, names: str, rng: random.Random, crash_at: int | None = None) -> SimFS:
        other = self._like(crash_at)
        for inode, node in self.nodes.items():
            held = dict(node.durable_names)
            for operations in self._surviving(node.pending, names, rng):
                node.apply(operations, held)
            kept = self._data(node, data)
            other.nodes[inode] = Node(node.kind, kept, kept, held, dict(held))
        return other

    def _like(self, crash_at: int | None) -> SimFS:
        other = SimFS(crash_at=crash_at, file_sync=self.file_sync, dir_sync=self.dir_sync)
        other._next = self._next
        return other

    @staticmethod
    def _surviving(pending: list[list[Operation]], names: str, rng: random.Random) -> list[list[Operation]]:
        if names == "none":
            return []
        if names == "prefix":
            return pending[: rng.randint(0, len(pending))]
        if names == "subset":
            return [one for one in pending if rng.random() < 0.5]
        return pending

    @staticmethod
    def _data(node: Node, data: str) -> bytes:
        if node.kind == "dir" or node.durable == node.data:
            return node.data
        if data == "old":
            return node.durable or b""
        if data == "whole":
            return node.data
        if data == "half":
            return node.data[: len(node.data) // 2]
        return b"" if data == "empty" else bytes(len(node.data))
