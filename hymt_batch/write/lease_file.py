"""The file of a lease or of a claim: read it, write it, and take it over from a process that is dead.

Independent of when a lease counts as dead.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from dataclasses import asdict
from pathlib import Path

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.fs_protocol import Fs
from hymt_batch.write.lease_holder import LeaseHolder, is_alive, parse_holder

MAX_BYTES = 1 << 16  # most bytes read of a lease file; ours has a few hundred


def read_bytes(fs: Fs, path: Path) -> bytes | None:
    """Return the raw file of a lease; None if there is none, b"" if it cannot be read."""
    try:
        return fs.read(path, 0, MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError:
        return b""


def write_tmp(fs: Fs, path: Path, holder: LeaseHolder) -> Path:
    """Write a lease to a temporary file beside its path."""
    tmp = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
    files.write_new(fs, tmp, manifest.canonical_json(asdict(holder)))
    return tmp


def take_over(fs: Fs, path: Path, stale: bytes, me: LeaseHolder) -> bool:
    """Replace a stale lease with ours; False if another process is doing so or already did.

    A bid decides which of several racing processes may do it: a hard link to our lease file, named after the digest of
    the stale lease. The winner renames its file over the lease if that is still the stale one, so that there always is
    a lease.
    """
    bid = bid_path(path, stale)
    tmp = write_tmp(fs, path, me)
    if not _bid(fs, tmp, bid, me):
        files.remove(fs, tmp)
        return False
    try:
        with contextlib.suppress(FileNotFoundError):  # another process got the lease and removed our file
            if read_bytes(fs, path) == stale:
                fs.rename(tmp, path)
                return True
        return False
    finally:
        files.remove(fs, bid)
        files.remove(fs, tmp)


def bid_path(path: Path, stale: bytes) -> Path:
    """Return the file of a bid for a stale lease."""
    return path.with_name(f"stale-{hashlib.sha256(stale).hexdigest()[:32]}")


def _bid(fs: Fs, tmp: Path, bid: Path, me: LeaseHolder) -> bool:
    """Bid for a stale lease. A bid left by a process that was killed is removed first."""
    for _ in range(2):
        try:
            fs.link(tmp, bid)
            return True
        except OSError as error:
            if error.errno in files.LINK_UNSUPPORTED_ERRNOS:
                return True
        bidder = parse_holder(read_bytes(fs, bid) or b"")
        if bidder is None or is_alive(bidder, me) is not False:
            return bidder is not None and bidder.owner == me.owner  # the call failed, but the link may exist
        files.remove(fs, bid)
    return False
