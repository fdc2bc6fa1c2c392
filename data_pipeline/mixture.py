# SPDX-License-Identifier: Apache-2.0
"""Several corpora as one, each with its weight in batches."""

import bisect
import hashlib
import itertools
import operator
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import grain
import numpy as np
from jaxtyping import Int, UInt64

from data_pipeline.batches import BatchPlan
from data_pipeline.id_hashes import find_shared, find_sorted
from data_pipeline.line_index import Lines
from data_pipeline.records import Dataset
from data_pipeline.strings import Concatenated


class Corpora(Sequence[dict[str, Any]]):
  """Prepared folders, concatenated into one `Dataset`; ids must be unique."""

  def __init__(self, folders: Sequence[str | Path]):
    self._datasets = [Dataset(folder) for folder in folders]
    self._starts = [0, *itertools.accumulate(map(len, self._datasets))]
    self.ids = Concatenated([dataset.ids for dataset in self._datasets])
    self.texts = Concatenated([dataset.texts for dataset in self._datasets])
    self.seconds = np.concatenate([dataset.seconds for dataset in self._datasets])
    if len(folders) == 1:
      return
    hashes = [dataset.lines.id_hashes for dataset in self._datasets]
    shared = find_shared(hashes, lambda i, number: self._datasets[i].ids[number])
    if shared:
      first, second, id = shared
      raise ValueError(
        f'{folders[second]}: id {id!r} is also in {folders[first]}; ids must be'
        ' unique, because responses are joined by id'
      )

  @property
  def lines(self) -> list[Lines]:
    """The index of each folder, in the order in which they are concatenated."""
    return [dataset.lines for dataset in self._datasets]

  def ids_sha256(self) -> str:
    """Return the SHA-256 of all ids, one a line; reads them if there are several."""
    if len(self._datasets) == 1:
      return self._datasets[0].ids_sha256()
    digest = hashlib.sha256()
    for number, id in enumerate(self.ids):
      digest.update(b'\n' * bool(number) + id.encode())
    return digest.hexdigest()

  def corpus_indices(
    self, id_hashes: UInt64[np.ndarray, ' n']
  ) -> Int[np.ndarray, ' n']:
    """Return the index of the folder of each utterance."""
    if len(self._datasets) == 1:
      return np.zeros(len(id_hashes), np.int32)
    hashes = np.concatenate([lines.id_hashes for lines in self.lines])
    order = np.argsort(hashes)
    numbers = order[find_sorted(id_hashes, hashes[order])]
    return np.searchsorted(self._starts, numbers, 'right').astype(np.int32) - 1

  def __len__(self) -> int:
    return self._starts[-1]

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    return self.__getitems__([index])[0]

  def __getitems__(self, indices: Collection[SupportsIndex]) -> list[dict[str, Any]]:
    utterances: list[dict[str, Any]] = [{}] * len(indices)
    by_corpus: dict[int, list[tuple[int, int]]] = {}  # (position in result, index)
    for position, index in enumerate(map(operator.index, indices)):
      corpus = bisect.bisect_right(self._starts, index) - 1
      by_corpus.setdefault(corpus, []).append((position, index - self._starts[corpus]))
    for corpus, members in by_corpus.items():
      records = self._datasets[corpus].__getitems__([index for _, index in members])
      for (position, _), record in zip(members, records, strict=True):
        utterances[position] = record
    return utterances


class Mixture(Sequence[BatchPlan]):
  """An endless order of batches, each of one corpus, interleaved by weight.

  The batches of a corpus keep their order; none is skipped or repeated.
  weights: of the corpora, in batches. Their fractions are met as exactly as possible.
  """

  def __init__(self, orders: Sequence[Sequence[BatchPlan]], weights: Sequence[float]):
    if min(weights) <= 0:
      raise ValueError(f'weights of corpora must be above 0; they are {list(weights)}')
    sources = [grain.MapDataset.source(order) for order in orders]
    self._mixed = grain.MapDataset.mix(sources, weights)

  def __len__(self) -> int:
    return len(self._mixed)

  def __getitem__(self, step: int) -> BatchPlan:
    return self._mixed[step]
