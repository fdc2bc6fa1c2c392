# SPDX-License-Identifier: Apache-2.0
"""Several corpora as one, each with its share of the batches."""

import bisect
import itertools
import operator
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import grain
import numpy as np
from jaxtyping import Int

from data_pipeline.batches import BatchPlan
from data_pipeline.records import Dataset


class Corpora(Sequence[dict[str, Any]]):
  """Prepared folders, one behind the other: as one `Dataset`."""

  def __init__(self, folders: Sequence[str | Path]):
    self._datasets = [Dataset(folder) for folder in folders]
    self._starts = [0, *itertools.accumulate(map(len, self._datasets))]
    self.ids = [id for dataset in self._datasets for id in dataset.ids]
    self.texts = [text for dataset in self._datasets for text in dataset.texts]
    self.seconds = np.concatenate([dataset.seconds for dataset in self._datasets])
    self._corpus_of: dict[str, int] = {}
    for number, dataset in enumerate(self._datasets):
      for id in dataset.ids:
        if (other := self._corpus_of.setdefault(id, number)) != number:
          raise ValueError(
            f'{folders[number]}: id {id!r} is also in {folders[other]}; responses are'
            ' joined by id'
          )

  def corpus_of(self, ids: Sequence[str]) -> Int[np.ndarray, ' n']:
    """The number of the folder that each utterance is in."""
    return np.asarray([self._corpus_of[id] for id in ids])

  def __len__(self) -> int:
    return self._starts[-1]

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    return self.__getitems__([index])[0]

  def __getitems__(self, indices: Collection[SupportsIndex]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{}] * len(indices)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place, index in enumerate(map(operator.index, indices)):
      corpus = bisect.bisect_right(self._starts, index) - 1
      wanted.setdefault(corpus, []).append((place, index - self._starts[corpus]))
    for corpus, members in wanted.items():
      records = self._datasets[corpus].__getitems__([index for _, index in members])
      for (place, _), record in zip(members, records, strict=True):
        found[place] = record
    return found


class Mixture(Sequence[BatchPlan]):
  """An endless order of batches, each of one corpus, in shares as exact as can be.

  Every corpus' own batches come in their own order, none left out and none twice.
  weights: of the corpora, in batches.
  """

  def __init__(self, orders: Sequence[Sequence[BatchPlan]], weights: Sequence[float]):
    if min(weights) <= 0:
      raise ValueError(f'the weights {list(weights)} of corpora are not all above 0')
    sources = [grain.MapDataset.source(order) for order in orders]
    self._mixed = grain.MapDataset.mix(sources, weights)

  def __len__(self) -> int:
    return len(self._mixed)

  def __getitem__(self, step: int) -> BatchPlan:
    return self._mixed[step]
