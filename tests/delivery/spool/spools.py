"""Chunks, and the files of processes that are no more, for the tests of the spool."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.directory import SpoolDirectory
from mitmproxy_moesif.delivery.spool.file import SpoolFile

MIB = 1 << 20


def a_chunk(events: int = 3, size: int = 100, destination: str = "0123456789abcdef", created: float = 1.5e9) -> Chunk:
    """Events of `size` bytes that no compression and no other chunk has in common."""
    bodies = tuple(b'{"x":"' + os.urandom(size).hex().encode()[: size - 8] + b'"}' for _ in range(events))
    return Chunk(destination, created, tuple(str(uuid.uuid4()) for _ in range(events)), bodies)


def content(chunk: Chunk) -> tuple[object, ...]:
    """All that a chunk says, to compare by."""
    return chunk.destination, chunk.created, chunk.transaction_ids, chunk.events


def stored(spool: SpoolFile) -> list[tuple[object, ...]]:
    """What a spool holds, in its order."""
    return [content(spool.load(info.key)) for info in spool.index()]


def leave_behind(spool: SpoolFile, folder: Path) -> Path:
    """Put into `folder` what would be left of the spool if its process were killed now; the database's new path."""
    folder.mkdir(exist_ok=True)
    for file in files_of(spool.path):
        if file.suffix != ".lock":
            shutil.copy(file, folder / file.name)
    return folder / spool.path.name


def files_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(path.name + "*"))


def dead_spool(folder: Path, chunks: Iterable[Chunk]) -> Path:
    """The file that a killed process left in `folder`, with these chunks appended one by one."""
    spool = SpoolFile.create(folder.with_name(folder.name + "-living"), 64 * MIB)
    for chunk in chunks:
        spool.append([chunk])
    path = leave_behind(spool, folder)
    spool.remove([info.key for info in spool.index()])
    spool.close()
    return path


def adopted(folder: Path, max_bytes: int = 64 * MIB) -> Iterator[SpoolFile]:
    return (spool for _, spool in SpoolDirectory(folder, max_bytes).adopt())
