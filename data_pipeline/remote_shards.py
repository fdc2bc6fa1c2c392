# SPDX-License-Identifier: Apache-2.0
"""Records of ArrayRecord shards in an object store, by range reads.

The end of a shard has the offset of every record. The bytes of the records of a batch
are fetched at once, of whichever shards, and laid at their offsets in a sparse file,
which the library reads: so it is the library that verifies checksums and decodes.
"""

import collections
import tempfile
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from data_pipeline.array_record_layout import (
  BLOCK_BYTES,
  find_footer,
  read_chunk_offsets,
)
from data_pipeline.container import RecordError
from data_pipeline.object_store import Range, RemotePath, read_ranges

TAIL_BYTES = 4 * BLOCK_BYTES  # of the first read; enough for thousands of records
MAX_FOOTER_BYTES = 64 << 20  # of some millions of records
MAX_RECORD_BYTES = 256 << 20  # an hour of int16 samples has 115 MB
CACHE_BYTES = 256 << 20  # of records of the current batches, and ends of shards
READER_OPTIONS = 'readahead_buffer_size:0'  # useless for random access


class Cache:
  """The most recently used values, `CACHE_BYTES` at most; threads may share it."""

  def __init__(self):
    self._entries: collections.OrderedDict[Any, tuple[Any, int]]
    self._entries, self._lock = collections.OrderedDict(), threading.Lock()
    self.bytes = 0

  def get(self, key: Any) -> Any:
    """Return a value, None if it is not here."""
    with self._lock:
      if key not in self._entries:
        return None
      self._entries.move_to_end(key)
      return self._entries[key][0]

  def put(self, key: Any, value: Any, size: int) -> None:
    """Add a value of `size` bytes; older ones make room."""
    self.drop([key])
    with self._lock:
      self._entries[key] = value, size
      self.bytes += size
      while self.bytes > CACHE_BYTES:
        self.bytes -= self._entries.popitem(last=False)[1][1]

  def drop(self, keys: Iterable[Any]) -> None:
    """Remove values, so that they are fetched again."""
    with self._lock:
      for key in keys:
        self.bytes -= self._entries.pop(key, (None, 0))[1]


class Tail:
  """The end of a shard from its footer on, and the offsets of its records.

  offsets: of every record, and of the footer that follows the last.
  """

  def __init__(self, path: RemotePath, start: int, content: bytes):
    """start: offset of the footer. content: from there to the end."""
    try:
      self.offsets = read_chunk_offsets(content, start)
    except ValueError as error:
      raise RecordError(f'{path}: is not an ArrayRecord file ({error})') from None
    self.start, self._compressed = start, zlib.compress(content, 1)  # mostly zeros

  @property
  def content(self) -> bytes:
    """The bytes from `start` to the end of the file."""
    return zlib.decompress(self._compressed)

  @property
  def size(self) -> int:
    """Bytes in memory."""
    return len(self._compressed) + self.offsets.nbytes


class RemoteShard:
  """A shard in an object store, with the methods of ArrayRecord's reader.

  count: its number of records, where that is known without reading.
  """

  def __init__(self, path: RemotePath, cache: Cache, count: int | None = None):
    self.path, self._cache, self._count = path, cache, count

  def num_records(self) -> int:
    """Return the number of records."""
    if self._count is None:
      self._count = len(self.tail().offsets) - 1
    return self._count

  def tail(self) -> Tail:
    """Return the end of the shard, which is read unless it is in the cache."""
    [tail] = fetch_tails([self.path], self._cache)
    return tail

  def ranges(self, rows: Iterable[int]) -> list[Range]:
    """Return where records are; RecordError if their lengths are impossible."""
    offsets = self.tail().offsets
    if self._count not in (None, len(offsets) - 1):
      raise RecordError(
        f'{self.path}: has {len(offsets) - 1} records, but {self._count} in'
        ' dataset.json; was the folder changed?'
      )
    ranges = [Range(self.path, *offsets[row : row + 2].tolist()) for row in rows]
    for _, start, stop in ranges:
      if not 0 < stop - start <= MAX_RECORD_BYTES:
        raise RecordError(
          f'{self.path}: the record at {start} has {stop - start} bytes; limit'
          f' {MAX_RECORD_BYTES}'
        )
    return ranges

  def read(self, rows: Sequence[int]) -> list[bytes]:
    """Read records; RuntimeError if one is damaged in the store."""
    try:
      return self._read(rows)
    except RuntimeError:  # perhaps damaged on the way: fetch all of it again
      self._cache.drop([*self.ranges(rows), self.path])
      return self._read(rows)

  def _read(self, rows: Sequence[int]) -> list[bytes]:
    ranges, tail = self.ranges(rows), self.tail()
    chunks = fetch(ranges, self._cache)
    # Sparse: only what is written takes space.
    with tempfile.NamedTemporaryFile(prefix='acl_jax-') as file:
      for each, chunk in zip(ranges, chunks, strict=True):
        file.seek(each.start)
        file.write(chunk)
      file.seek(tail.start)
      file.write(tail.content)
      file.flush()
      return _read_file(file.name, rows)


def _read_file(name: str, rows: Sequence[int]) -> list[bytes]:
  reader = array_record_module.ArrayRecordReader(name, options=READER_OPTIONS)
  try:
    if not reader.ok():  # it does not raise
      raise RuntimeError('the end of the shard is damaged')
    return reader.read(rows)
  finally:
    reader.close()


def fetch(ranges: Sequence[Range], cache: Cache) -> list[bytes]:
  """Return ranges of files; those that are not in the cache are read at once."""
  found = {each: cache.get(each) for each in ranges}
  missing = [each for each, content in found.items() if content is None]
  for each, content in zip(missing, read_ranges(missing), strict=True):
    found[each] = content
    cache.put(each, content, len(content))
  return [found[each] for each in ranges]


def fetch_tails(paths: Sequence[RemotePath], cache: Cache) -> list[Tail]:
  """Return the ends of shards; those that are not in the cache are read at once.

  RecordError if a file is no ArrayRecord, or truncated.
  """
  found: dict[RemotePath, Any] = {path: cache.get(path) for path in paths}
  missing = [path for path, tail in found.items() if tail is None]
  guesses = [Range(p, max(0, p.size - TAIL_BYTES), p.size) for p in missing]
  ends = dict(zip(missing, read_ranges(guesses), strict=True))
  starts: dict[RemotePath, int] = {}
  for path, content in ends.items():
    try:
      starts[path] = find_footer(content, path.size)
    except ValueError as error:
      raise RecordError(
        f'{path}: is not an ArrayRecord file, or truncated ({error})'
      ) from None
    if path.size - starts[path] > MAX_FOOTER_BYTES:
      raise RecordError(
        f'{path}: its footer has {path.size - starts[path]} bytes; limit'
        f' {MAX_FOOTER_BYTES}'
      )
  longer = [p for p in missing if p.size - starts[p] > len(ends[p])]
  ends |= zip(
    longer, read_ranges([Range(p, starts[p], p.size) for p in longer]), strict=True
  )
  for path in missing:
    tail = Tail(path, starts[path], ends[path][starts[path] - path.size :])
    found[path] = tail
    cache.put(path, tail, tail.size)
  return [found[path] for path in paths]


def prefetch(wanted: Mapping[RemoteShard, Iterable[int]], cache: Cache) -> None:
  """Fetch records of many shards in two rounds: their ends, then the records.

  RecordError if a shard is damaged.
  """
  fetch_tails([shard.path for shard in wanted], cache)
  fetch([each for shard, rows in wanted.items() for each in shard.ranges(rows)], cache)
