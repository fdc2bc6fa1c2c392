# SPDX-License-Identifier: Apache-2.0
"""The index of a file of JSON lines: ids and texts of millions of records on demand.

`index.jsonl` has a line per record with its id, its text and a length. Beside it
`index.columns` has what a run needs of every record: where its line starts, a hash of
its id, and its length. Other keys of a line are ignored.
"""

import contextlib
import functools
import hashlib
import json
import operator
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Num, UInt64

from acl_jax.runtime.files import sha256
from acl_jax.runtime.progress import progress
from data_pipeline.column_files import open_or_make
from data_pipeline.columns import Columns, write_columns
from data_pipeline.container import RecordError
from data_pipeline.id_hashes import hash_id
from data_pipeline.object_store import RemotePath, local_copy

SUFFIX = '.columns'
VERSION = 1
CHUNK_LINES = 1 << 16  # parsed between two updates of the progress
PROGRESS_BYTES = 64 << 20  # of a file that takes long enough to report progress
MAX_LINE_BYTES = 1 << 24


class Lines:
  """The lines of a file and their columns.

  ids, texts: read when they are asked for. lengths: of the records, in the unit of the
  file. id_hashes: see `id_hashes`. remote: the folder in an object store of which they
  are this machine's copy, if they are one.
  """

  def __init__(
    self, path: Path, columns: Columns, length: str, remote: RemotePath | None = None
  ):
    self.path, self.columns, self.remote = path, columns, remote
    self.lengths: Num[np.ndarray, ' n'] = columns[length]
    self.id_hashes: UInt64[np.ndarray, ' n'] = columns['id_hash']
    self._starts = columns['start']
    self._length = length
    self.ids = Field(self, 'id')
    self.texts = Field(self, 'text')
    self._file = os.open(path, os.O_RDONLY)
    weakref.finalize(self, os.close, self._file)

  def __len__(self) -> int:
    return len(self.lengths)

  def read(self, index: int) -> dict[str, Any]:
    """Return a line; RecordError if it is not the one that the index was made from."""
    if not 0 <= index < len(self):
      raise IndexError(f'line {index} is out of range; there are {len(self)}')
    start, stop = self._starts[index : index + 2].tolist()
    # Threads share the file: a position of their own instead of a seek.
    line = os.pread(self._file, stop - start, start)
    return self._parse(index, line)

  def _parse(self, index: int, line: bytes) -> dict[str, Any]:
    entry = parse_line(self.path, line, self._length)
    is_same = hash_id(entry['id']) == self.id_hashes[index]
    length = self.lengths.dtype.type(entry[self._length])
    if not is_same or length != self.lengths[index]:
      raise RecordError(
        f'{self.path}: line {index + 1} changed since {self.columns.path} was made;'
        ' delete the latter'
      )
    return entry

  def __iter__(self) -> Iterator[dict[str, Any]]:
    """Yield all lines, in order."""
    for index, line in enumerate(_read_lines(self.path)):
      yield self._parse(index, line)

  def __reduce__(self):
    return Lines, (self.path, self.columns, self._length, self.remote)


class Field(Sequence[str]):
  """One string of each line, read when it is asked for."""

  def __init__(self, lines: Lines, name: str):
    self._lines, self._name = lines, name

  def __len__(self) -> int:
    return len(self._lines)

  def __getitem__(self, index: SupportsIndex) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._lines.read(operator.index(index))[self._name]

  def __iter__(self) -> Iterator[str]:
    return (line[self._name] for line in self._lines)


class Builder:
  """Collects the columns of lines while they are written or read."""

  def __init__(self, length: str, dtype: str):
    self._length, self._dtype = length, dtype
    self._rows: list[tuple[int, int, float]] = []  # not in an array yet
    self._chunks: list[np.ndarray] = []
    self.bytes = 0
    self._content, self._ids = hashlib.sha256(), hashlib.sha256()

  def add(self, line: bytes, entry: Mapping[str, Any]) -> None:
    """Add a line, with its end, and what it says."""
    separator = b'\n' if self.bytes else b''
    self._ids.update(separator + entry['id'].encode(errors='surrogatepass'))
    self._content.update(line)
    self._rows.append((self.bytes, hash_id(entry['id']), entry[self._length]))
    self.bytes += len(line)
    if len(self._rows) == CHUNK_LINES:
      self._flush()

  def _flush(self) -> None:
    dtype = [('start', 'u8'), ('id_hash', 'u8'), (self._length, self._dtype)]
    self._chunks.append(np.asarray(self._rows, np.dtype(dtype)))
    self._rows = []

  def write(self, path: Path, description: bytes) -> None:
    """Write the index of the lines, which are in `path`; see `make_key`."""
    columns, facts = self.finish()
    parts = {name: [array] for name, array in columns.items()}
    write_columns(index_path(path), parts, make_key(self.bytes, description), facts)

  def finish(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the columns and facts of the index."""
    self._flush()
    rows = np.concatenate(self._chunks)
    names = 'start', 'id_hash', self._length
    columns = {name: np.ascontiguousarray(rows[name]) for name in names}
    columns['start'] = np.append(columns['start'], np.uint64(self.bytes))
    sums = {
      'sha256': self._content.hexdigest(),
      'ids_sha256': self._ids.hexdigest(),
    }
    return columns, sums


def index_path(path: Path) -> Path:
  """Return where the index of a file of lines is."""
  return path.with_suffix(SUFFIX)


def make_key(size: int, description: bytes) -> dict[str, Any]:
  """Return what an index is made from.

  size: of the file of lines, in bytes. description: the content of the file that
  describes the folder, such as the checksums of its shards.
  """
  return {
    'version': VERSION,
    'bytes': size,
    'description': hashlib.sha256(description).hexdigest(),
  }


def open_lines(
  path: Path, description: Path, length: str, dtype: str, index: Path | None = None
) -> Lines:
  """Open a file of lines by its index, which is made if it is missing or outdated.

  One process makes it, the others wait. Where the folder cannot be written, it is made
  in memory. description: see `make_key`. length, dtype: the number in each line.
  index: where it is; beside the lines by default.
  RecordError if a line cannot be read.
  """
  try:
    stat = path.stat()
    key, newest = make_key(stat.st_size, description.read_bytes()), stat.st_mtime_ns
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{error.filename}: not found') from None
  make = functools.partial(_read_index, path, length, dtype)
  is_same = lambda columns: sha256(path) == columns.facts['sha256']  # noqa: E731
  columns = open_or_make(index or index_path(path), key, newest, make, is_same)
  return Lines(path, columns, length)


def open_prepared(folder: Path | RemotePath) -> Lines:
  """Open the lines of a prepared folder, whose lengths are seconds.

  Of a remote folder, lines and index are copied to this machine.
  """
  lines, description = (local_copy(folder / n) for n in ('index.jsonl', 'dataset.json'))
  try:
    index = local_copy(folder / f'index{SUFFIX}')
  except FileNotFoundError:  # a remote folder that has none: made beside the copy
    index = None
  opened = open_lines(lines, description, 'seconds', 'float32', index)
  opened.remote = folder if isinstance(folder, RemotePath) else None
  return opened


def _read_index(
  path: Path, length: str, dtype: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Read all lines; returns the columns and facts of their index."""
  builder, size = Builder(length, dtype), path.stat().st_size
  with contextlib.ExitStack() as stack:
    advance = None
    if size > PROGRESS_BYTES:
      name = f'index of {path.parent.name}, MB'
      advance = stack.enter_context(progress(name, size >> 20))
    reported = 0
    for line in _read_lines(path):
      builder.add(line, parse_line(path, line, length))
      if advance and (builder.bytes >> 20) > reported:
        advance((builder.bytes >> 20) - reported)
        reported = builder.bytes >> 20
  return builder.finish()


def _read_lines(path: Path) -> Iterator[bytes]:
  with path.open('rb') as file:
    while line := file.readline(MAX_LINE_BYTES):
      if len(line) == MAX_LINE_BYTES:
        raise RecordError(
          f'{path}: cannot be read (a line has over {MAX_LINE_BYTES} bytes)'
        )
      yield line


def parse_line(path: Path, line: bytes, length: str) -> dict[str, Any]:
  """Return the object in a line; RecordError if it lacks id, text or a length."""
  try:
    entry = json.loads(line.decode())
    if not (isinstance(entry['id'], str) and isinstance(entry['text'], str)):
      raise TypeError('id and text must be strings')
    if not 0 <= float(entry[length]) < 1 << 31:
      raise ValueError(f'{length} is {entry[length]!r}')
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise RecordError(f'{path}: cannot be read ({error!r})') from None
  return entry
