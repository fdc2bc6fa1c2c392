# SPDX-License-Identifier: Apache-2.0
"""Parquet files with audio: rows of text first, the audio of a row when it is needed.

Sizes that a file states are checked before anything of that size is read, and rows are
decoded a few at a time: a dictionary may repeat one large value in every row.
"""

import atexit
import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from pyarrow.parquet import ParquetFile

MAX_ROWS = 100_000  # of a row group, and of a file that `read_schema` accepts
MAX_GROUP_BYTES = 1 << 30  # of a row group, uncompressed; published ones have < 2**28
ROWS_OF_TEXT, ROWS_OF_AUDIO = 256, 4  # decoded at a time
# Of these rows, if each had the largest value that its row group can have.
MAX_BATCH_BYTES = 1 << 30
# Cells of audio that were passed and may still be asked for, and their bytes.
MAX_WAITING, MAX_WAITING_BYTES = 256, 256 << 20
_BUFFER_BYTES = 1 << 20
_THRIFT_BYTES, _THRIFT_ITEMS = 16 << 20, 1_000_000  # of the metadata


def read_schema(path: Path) -> tuple[list[str], int]:
  """Return the columns and the number of rows; ValueError if it cannot be used."""
  with open_file(path) as file:
    rows = file.metadata.num_rows
    if not 0 <= rows <= MAX_ROWS:
      raise ValueError(f'{path}: has {rows} rows; the limit is {MAX_ROWS}')
    return list(file.schema_arrow.names), rows


def read_rows(
  path: Path, columns: Sequence[str]
) -> Iterator[tuple[int, int, dict[str, Any]]]:
  """Yield row group, row within it, and the values of text columns; ValueError."""
  with open_file(path) as file:
    for group in range(file.num_row_groups):
      row = 0
      for batch in _read_batches(file, path, group, columns, ROWS_OF_TEXT):
        for values in batch.to_pylist():
          yield group, row, values
          row += 1


def read_cell(path: Path, group: int, row: int, column: str) -> Any:
  """Return the value of a column in a row of a row group; ValueError.

  Rows that are read in about the order of the file are decoded once. Any number of
  threads may read.
  """
  try:
    status = path.stat()
  except OSError as error:
    raise ValueError(f'{path}: {error.strerror}') from None
  version = status.st_size, status.st_mtime_ns
  return _open_column(path, group, column, version).take(row)


class _Column:
  """The cells of a column of a row group, in order, and those that were passed."""

  def __init__(self, path: Path, group: int, column: str):
    self._source = path, group, column
    self._lock = threading.Lock()
    self._cells: Iterator[Any] = iter(())
    self._next: int | None = None  # row; None before the first
    self._waiting: dict[int, Any] = {}

  def take(self, row: int) -> Any:
    with self._lock:
      if row in self._waiting:
        return self._waiting.pop(row)
      if self._next is None or row < self._next:
        self._cells, self._next = _read_cells(*self._source), 0
        self._waiting.clear()
      try:
        return self._advance(row)
      except BaseException:
        self._next = None  # a generator that has raised yields nothing more
        raise

  def _advance(self, row: int) -> Any:
    assert self._next is not None
    for cell in self._cells:
      self._next += 1
      if self._next > row:
        return cell
      self._waiting[self._next - 1] = cell
      while len(self._waiting) > MAX_WAITING or self._size() > MAX_WAITING_BYTES:
        del self._waiting[next(iter(self._waiting))]
    path, group, _ = self._source
    raise ValueError(f'{path}: row group {group} has no row {row}')

  def _size(self) -> int:
    cells = (cell for cell in self._waiting.values() if isinstance(cell, dict))
    return sum(len(cell.get('bytes') or b'') for cell in cells)


@functools.lru_cache(maxsize=2)  # threads may be at the border of two groups
def _open_column(
  path: Path, group: int, column: str, version: tuple[int, int]
) -> _Column:
  del version  # a file that has changed is opened again
  return _Column(path, group, column)


atexit.register(_open_column.cache_clear)  # files that pyarrow has to close


def _read_cells(path: Path, group: int, column: str) -> Iterator[Any]:
  with open_file(path) as file:
    for batch in _read_batches(file, path, group, (column,), ROWS_OF_AUDIO):
      yield from batch[column].to_pylist()


def _read_batches(
  file: 'ParquetFile', path: Path, group: int, columns: Sequence[str], rows: int
) -> Iterator[Any]:
  if not 0 <= group < file.num_row_groups:
    raise ValueError(f'{path}: has no row group {group}')
  size = _check_group(file, path, group, columns)
  rows = max(1, min(rows, MAX_BATCH_BYTES // max(1, size)))
  return file.iter_batches(rows, [group], list(columns), use_threads=False)


def _check_group(
  file: 'ParquetFile', path: Path, group: int, columns: Sequence[str]
) -> int:
  """Return the bytes of columns of a row group; ValueError if they are too many."""
  metadata = file.metadata.row_group(group)
  chunks = [metadata.column(index) for index in range(metadata.num_columns)]
  size = sum(
    max(0, chunk.total_uncompressed_size)
    for chunk in chunks
    if chunk.path_in_schema.split('.')[0] in columns
  )
  if size > MAX_GROUP_BYTES or not 0 <= metadata.num_rows <= MAX_ROWS:
    raise ValueError(
      f'{path}: row group {group} has {size} bytes in {metadata.num_rows} rows; the '
      f'limits are {MAX_GROUP_BYTES} and {MAX_ROWS}; write it again with row_group_size'
    )
  return size


@contextlib.contextmanager
def open_file(path: Path) -> Iterator['ParquetFile']:
  """Open a Parquet file; ValueError, in one sentence, if it cannot be read."""
  import pyarrow  # slow to import
  import pyarrow.parquet

  try:
    with pyarrow.parquet.ParquetFile(
      path,
      buffer_size=_BUFFER_BYTES,  # or a column of a row group is read at once
      thrift_string_size_limit=_THRIFT_BYTES,
      thrift_container_size_limit=_THRIFT_ITEMS,
    ) as file:
      yield file
  except (pyarrow.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
    reason = ' '.join(str(error).split())[:200]
    raise ValueError(f'{path}: cannot be read as Parquet ({reason})') from None
