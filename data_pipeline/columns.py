# SPDX-License-Identifier: Apache-2.0
"""Named arrays in one checksummed file, memory-mapped: what a run must know of records.

Magic `ACLCOLM1`, the length of a JSON header and the CRC-32 of header and table, the
header (key, facts, and the name, dtype and size of every column), a table with the
CRC-32 of every block of 64 KiB of the data, then the columns, little-endian, each at a
multiple of 64 bytes. A column is checked when it is first asked for, a part of it block
by block, so that opening a file reads only the header.

Arrow and Parquet would do the same with a large dependency: Arrow IPC has no checksums,
and Parquet cannot be memory-mapped.
"""

import json
import mmap
import os
import struct
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from acl_jax.runtime.files import replace_atomically
from acl_jax.runtime.rounding import round_up
from data_pipeline.container import RecordError

BLOCK_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 20
DTYPES = ('uint8', 'uint16', 'int32', 'uint32', 'int64', 'uint64', 'float32')

_MAGIC = b'ACLCOLM1'
_PREFIX = struct.Struct('<8sII')  # magic, bytes of the header, CRC-32
_ALIGNMENT = 64
_WRITE_ROWS = 1 << 20

Chunks = Sequence[np.ndarray]  # a column in parts, concatenated in the file


class ColumnsError(RecordError):
  """A file of columns that is missing, damaged, or was made from something else."""


class Columns(Mapping):
  """Read-only arrays by name.

  key: what the arrays were made from. facts: further values that were stored. path: of
  the file; None for arrays in memory.
  """

  def __init__(
    self,
    arrays: Mapping[str, Shaped[np.ndarray, ' _']],
    key: Mapping[str, Any],
    facts: Mapping[str, Any],
    file: '_File | None' = None,
  ):
    self._arrays, self.key, self.facts, self._file = arrays, key, facts, file

  @property
  def path(self) -> Path | None:
    """The file that the arrays are in, if any."""
    return self._file.path if self._file else None

  def __getitem__(self, name: str) -> Shaped[np.ndarray, ' n']:
    """Return a whole column; ColumnsError if its checksums differ."""
    return self.read(name, 0, len(self._arrays[name]))

  def read(self, name: str, start: int, stop: int) -> Shaped[np.ndarray, ' n']:
    """Return a part of a column; checks only the blocks in which it is."""
    array = self._arrays[name][start:stop]
    if self._file:
      self._file.check(name, start, start + len(array))
    return array

  def size(self, name: str) -> int:
    """Return the length of a column."""
    return len(self._arrays[name])

  def __iter__(self) -> Iterator[str]:
    return iter(self._arrays)

  def __len__(self) -> int:
    return len(self._arrays)

  def __reduce__(self):  # another process maps the same file
    if self._file:
      return open_columns, (self._file.path,)
    return Columns, (dict(self._arrays), dict(self.key), dict(self.facts))


class _File:
  """The blocks of a file, and which of them have been checked."""

  def __init__(self, path: Path, file: int, content: memoryview):
    self.path, self._file = path, file
    weakref.finalize(self, os.close, file)
    self.header, self._table, self.data = _read_header(path, content)
    self._start, self._size = len(content) - len(self.data), len(self.data)
    self._checked = np.zeros(len(self._table), bool)
    self.places, end = _places(self.header['columns'])
    if end != self._size:
      raise ColumnsError(
        f'{path}: has {self._size} bytes of data, not {end}; truncated?'
      )

  def check(self, name: str, start: int, stop: int) -> None:
    offset, size = self.places[name]
    first = (offset + start * size) // BLOCK_BYTES
    last = -(-(offset + stop * size) // BLOCK_BYTES)
    for block in map(int, first + np.flatnonzero(~self._checked[first:last])):
      begin = block * BLOCK_BYTES
      size = min(BLOCK_BYTES, self._size - begin)
      # Read, not mapped: what is only checked does not stay in this process' memory.
      content = os.pread(self._file, size, self._start + begin)
      if zlib.crc32(content) != self._table[block]:
        raise ColumnsError(
          f'{self.path}: damaged in block {block} of {len(self._table)}, in the column'
          f' {name!r}; delete the file, it is made again'
        )
      self._checked[block] = True


def write_columns(
  path: Path,
  columns: Mapping[str, Chunks],
  key: Mapping[str, Any],
  facts: Mapping[str, Any] | None = None,
) -> None:
  """Write columns to a file, atomically; equal arguments give equal bytes.

  The parts of a column may be memory-mapped: only some rows are in memory at a time.
  """
  layout = [
    [name, chunks[0].dtype.name, sum(map(len, chunks))]
    for name, chunks in columns.items()
  ]
  content = {'key': key, 'facts': facts or {}, 'columns': layout}
  header = json.dumps(content, separators=(',', ':'), sort_keys=True).encode()
  places, end = _places(layout)
  head = _PREFIX.size + len(header) + 4 * -(-end // BLOCK_BYTES)
  header += b' ' * (-head % _ALIGNMENT)  # so that the columns are aligned in memory
  head = round_up(head, _ALIGNMENT)
  with replace_atomically(path) as temporary, temporary.open('wb') as file:
    file.seek(head)  # the table follows from the data
    table = b''.join(
      struct.pack('<I', zlib.crc32(block))
      for block in _write_blocks(file, _pieces(columns, places, end))
    )
    file.seek(0)
    file.write(_PREFIX.pack(_MAGIC, len(header), zlib.crc32(header + table)))
    file.write(header + table)


def _places(layout: Iterable[Sequence[Any]]) -> tuple[dict[str, tuple[int, int]], int]:
  """Return the offset and element size of every column, and where the data ends."""
  places, end = {}, 0
  for name, dtype, count in layout:
    size = np.dtype(dtype).itemsize
    places[name] = end, size
    end = round_up(end + size * count, _ALIGNMENT)
  return places, end


def _pieces(
  columns: Mapping[str, Chunks], places: Mapping[str, tuple[int, int]], end: int
) -> Iterator[bytes]:
  """Yield the bytes of all columns and the padding after each."""
  position = 0
  for name, chunks in columns.items():
    yield bytes(places[name][0] - position)
    position = places[name][0]
    for chunk in chunks:
      for start in range(0, len(chunk), _WRITE_ROWS):
        rows = chunk[start : start + _WRITE_ROWS]
        piece = rows.astype(chunks[0].dtype.newbyteorder('<'), copy=False).tobytes()
        position += len(piece)
        yield piece
  yield bytes(end - position)


def _write_blocks(file, pieces: Iterable[bytes]) -> Iterator[bytes]:
  """Write pieces; yields them again as blocks."""
  rest = b''
  for piece in pieces:
    file.write(piece)
    rest += piece
    whole = len(rest) - len(rest) % BLOCK_BYTES
    yield from (rest[i : i + BLOCK_BYTES] for i in range(0, whole, BLOCK_BYTES))
    rest = rest[whole:]
  if rest:
    yield rest


def open_columns(path: Path, key: Mapping[str, Any] | None = None) -> Columns:
  """Open a file; ColumnsError if it is missing, damaged or of another key."""
  try:
    file = os.open(path, os.O_RDONLY)
  except FileNotFoundError:
    raise ColumnsError(f'{path}: not found') from None
  try:
    content = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
  except ValueError:
    os.close(file)
    raise ColumnsError(f'{path}: is empty') from None
  blocks = _File(path, file, memoryview(content))
  header, arrays = blocks.header, {}
  if key is not None and header['key'] != dict(key):
    raise ColumnsError(f'{path}: was made from {header["key"]}, not from {dict(key)}')
  for name, dtype, count in header['columns']:
    stored = np.dtype(dtype).newbyteorder('<')
    arrays[name] = np.frombuffer(blocks.data, stored, count, blocks.places[name][0])
  return Columns(arrays, header['key'], header['facts'], blocks)


def _read_header(
  path: Path, content: memoryview
) -> tuple[dict[str, Any], np.ndarray, memoryview]:
  """Return header, table and data; ColumnsError if header or table is damaged."""
  if len(content) < _PREFIX.size or content[: len(_MAGIC)] != _MAGIC:
    raise ColumnsError(f'{path}: is not a file of columns')
  _, length, checksum = _PREFIX.unpack_from(content)
  if length > min(MAX_HEADER_BYTES, len(content) - _PREFIX.size):
    raise ColumnsError(f'{path}: the header of {length} bytes is cut off')
  start = _PREFIX.size + length
  # The size of the file states how many blocks there are.
  blocks = -(-(len(content) - start) // (BLOCK_BYTES + 4))
  end = start + 4 * blocks
  if zlib.crc32(content[_PREFIX.size : end]) != checksum:
    raise ColumnsError(f'{path}: the header is damaged, or the file is truncated')
  try:
    header = json.loads(bytes(content[_PREFIX.size : start]))
    valid = {'key', 'facts', 'columns'} == header.keys() and all(
      dtype in DTYPES and type(count) is int and count >= 0
      for _, dtype, count in header['columns']
    )
  except (ValueError, TypeError, AttributeError):
    valid = False
  if not valid:
    raise ColumnsError(f'{path}: the header is malformed')
  return header, np.frombuffer(content[start:end], '<u4'), content[end:]
