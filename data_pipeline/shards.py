# SPDX-License-Identifier: Apache-2.0
"""Random access to the records of ArrayRecord shards, here or in an object store."""

import bisect
import itertools
import operator
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, SupportsIndex

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from data_pipeline import remote_shards
from data_pipeline.container import RecordError
from data_pipeline.object_store import RemotePath, as_path

_DIGITS = '[0-9]' * 5


def shard_name(name: str, index: int, total: int) -> str:
  """Return the file name of one shard of `total`."""
  return f'{name}-{index:05d}-of-{total:05d}.array_record'


class Shards(Sequence[bytes]):
  """Random access to the records of `folder/name-?????-of-?????.array_record`.

  counts: records by file name, where they are known; a remote shard is then not read
  before one of its records is.
  """

  def __init__(
    self,
    folder: str | pathlib.Path | RemotePath,
    name: str = 'data',
    counts: Mapping[str, int] | None = None,
  ):
    folder, counts = as_path(folder), counts or {}
    self._paths = sorted(folder.glob(f'{name}-{_DIGITS}-of-{_DIGITS}.array_record'))
    if not self._paths:
      raise FileNotFoundError(f'{folder}: no shards {name}-*-of-*.array_record')
    total = int(self._paths[0].name[-18:-13])
    expected = {folder / shard_name(name, index, total) for index in range(total)}
    for odd in sorted(expected.symmetric_difference(self._paths)):
      state = 'is missing' if odd in expected else f'is not one of the {total} shards'
      raise RecordError(f'{odd}: {state}')
    self._counts = [counts.get(path.name) for path in self._paths]
    self._open_all()
    lengths = (reader.num_records() for reader in self._readers)
    self._starts = list(itertools.accumulate(lengths, initial=0))

  def _open_all(self) -> None:
    pairs = zip(self._paths, self._counts, strict=True)
    self._cache = remote_shards.Cache()
    self._readers = [self._open(*pair) for pair in pairs]

  def _open(self, path: pathlib.Path | RemotePath, count: int | None) -> Any:
    if isinstance(path, RemotePath):
      return remote_shards.RemoteShard(path, self._cache, count)
    options = remote_shards.READER_OPTIONS
    reader = array_record_module.ArrayRecordReader(str(path), options=options)
    if not reader.ok():  # it does not raise
      raise RecordError(f'{path}: is not an ArrayRecord file, or truncated')
    return reader

  def __len__(self) -> int:
    return self._starts[-1]

  def __getitem__(self, index: SupportsIndex) -> bytes:
    return self.__getitems__([index])[0]

  def __getitems__(self, indices: Collection[SupportsIndex]) -> list[bytes]:
    """Read many records at once, which is much faster than one by one."""
    by_shard: dict[int, dict[int, int]] = {}  # shard -> position in result -> row
    for position, index in enumerate(indices):
      shard, row = self._split_index(operator.index(index))
      by_shard.setdefault(shard, {})[position] = row
    records = [b''] * len(indices)
    self._prefetch(by_shard)
    for shard, rows in by_shard.items():
      contents = self._read(shard, list(rows.values()))
      for position, record in zip(rows, contents, strict=True):
        records[position] = record
    return records

  def _prefetch(self, by_shard: Mapping[int, Mapping[int, int]]) -> None:
    """Fetch what is remote of the wanted rows, all shards at once."""
    remote_shards.prefetch(
      {
        self._readers[shard]: rows.values()
        for shard, rows in by_shard.items()
        if isinstance(self._paths[shard], RemotePath)
      },
      self._cache,
    )

  def _split_index(self, index: int) -> tuple[int, int]:
    """Return the shard of a record and its row there."""
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} is out of range; there are {len(self)}')
    shard = bisect.bisect_right(self._starts, index) - 1
    return shard, index - self._starts[shard]

  def locate(self, index: SupportsIndex) -> str:
    """Return the path and row of a record, for messages."""
    shard, row = self._split_index(operator.index(index))
    return f'{self._paths[shard]}: record {row}'

  def _read(self, shard: int, rows: list[int]) -> list[bytes]:
    try:
      return self._readers[shard].read(rows)
    except (RuntimeError, IndexError) as error:
      if len(rows) > 1:  # read one by one to find the broken record
        return [self._read(shard, [row])[0] for row in rows]
      reason = str(error).split(' (')[0]
      raise RecordError(f'{self._paths[shard]}: record {rows[0]}: {reason}') from None

  def __getstate__(self):
    return self._paths, self._counts, self._starts

  def __setstate__(self, state):
    # Readers cannot be pickled, so a worker process opens its own.
    self._paths, self._counts, self._starts = state
    self._open_all()
