# SPDX-License-Identifier: Apache-2.0
"""Parquet shards with audio: rows of text first, the audio of a row when it is needed.

Sizes that a file states are checked before anything of that size is read.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from data_pipeline import audio
from data_pipeline.audio import AudioError
from data_pipeline.corpora.utterance import Utterance, resolve_inside

if TYPE_CHECKING:
  from pyarrow.parquet import ParquetFile

MAX_ROWS = 100_000  # of a shard
MAX_GROUP_BYTES = 1 << 30  # of a row group, uncompressed; published ones have < 2**28
_THRIFT_BYTES, _THRIFT_ITEMS = 16 << 20, 1_000_000  # of the metadata


@dataclasses.dataclass(frozen=True)
class ParquetUtterance(Utterance):
  """An utterance whose audio is in row `row` of a row group of a shard."""

  row_group: int = 0
  row: int = 0

  def read(self, limits: audio.Limits) -> Float32[np.ndarray, 'samples']:
    """Read the audio as 16 kHz mono; AudioError if it cannot be used."""
    try:
      cell = _read_audio_group(self.audio_filepath, self.row_group)[self.row]
    except (ValueError, IndexError) as error:  # the shard may have changed
      raise AudioError(self.id, 'audio', f'cannot be read ({error})') from None
    if not isinstance(cell, dict):
      raise AudioError(self.id, 'audio', 'is null')
    if isinstance(cell.get('bytes'), bytes):
      return audio.read(cell['bytes'], limits=limits, name=self.id)
    if not isinstance(cell.get('path'), str):
      raise AudioError(self.id, 'audio', 'has neither bytes nor a path')
    try:
      path = resolve_inside(self.audio_filepath.parent.resolve(), cell['path'])
    except ValueError as error:
      raise AudioError(self.id, 'audio', f'path {error}') from None
    return audio.read(path, limits=limits)


def read_schema(path: Path) -> tuple[list[str], int]:
  """Return the columns and the number of rows; ValueError if it cannot be used."""
  with _open(path) as file:
    rows = file.metadata.num_rows
    if not 0 <= rows <= MAX_ROWS:
      raise ValueError(f'{path}: has {rows} rows; the limit is {MAX_ROWS}')
    return list(file.schema_arrow.names), rows


def read_rows(
  path: Path, columns: Sequence[str]
) -> Iterator[tuple[int, int, dict[str, Any]]]:
  """Yield row group, row within it, and the values of text columns; ValueError."""
  with _open(path) as file:
    for group in range(file.num_row_groups):
      _check_group(file, path, group, columns)
      rows = file.read_row_group(group, columns=list(columns)).to_pylist()
      for row, values in enumerate(rows):
        yield group, row, values


@functools.lru_cache(maxsize=1)  # utterances are read in order
def _read_audio_group(path: Path, group: int) -> list[Any]:
  with _open(path) as file:
    _check_group(file, path, group, ('audio',))
    return file.read_row_group(group, columns=['audio'])['audio'].to_pylist()


def _check_group(
  file: 'ParquetFile', path: Path, group: int, columns: Sequence[str]
) -> None:
  """Raise ValueError if columns of a row group are too large to read."""
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
      f'limits are {MAX_GROUP_BYTES} and {MAX_ROWS}'
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator['ParquetFile']:
  """Open a shard; ValueError, in one sentence, if it cannot be read."""
  try:
    import pyarrow  # an optional dependency
    import pyarrow.parquet
  except ImportError:
    raise ValueError(
      f"{path}: Parquet needs pyarrow. Run pip install 'acl_jax[voicebench]'"
    ) from None
  try:
    with pyarrow.parquet.ParquetFile(
      path,
      thrift_string_size_limit=_THRIFT_BYTES,
      thrift_container_size_limit=_THRIFT_ITEMS,
    ) as file:
      yield file
  except (pyarrow.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
    reason = ' '.join(str(error).split())[:200]
    raise ValueError(f'{path}: cannot be read as Parquet ({reason})') from None
