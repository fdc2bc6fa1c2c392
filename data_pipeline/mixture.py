# SPDX-License-Identifier: Apache-2.0
"""Several corpora as one, each with its weight in batches."""

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
  """Prepared folders, concatenated into one `Dataset`; ids must be unique."""

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
            f'{folders[number]}: id {id!r} is also in {folders[other]}; ids must be'
            ' unique, because responses are joined by id'
          )

  def corpus_indices(self, ids: Sequence[str]) -> Int[np.ndarray, ' n']:
    """Return the index of the folder of each utterance."""
    return np.asarray([self._corpus_of[id] for id in ids])

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
