# SPDX-License-Identifier: Apache-2.0
"""What evaluation does to audio, by the names that `Speech.degradation` may have."""

from collections.abc import Callable, Sequence

import numpy as np

from data_pipeline.corpora.utterance import Utterance

ReadOthers = Callable[[int], Sequence[np.ndarray]]

DEGRADATIONS: dict[str, Callable] = {}


def degrade(waveform: np.ndarray, id: str, name: str, others: ReadOthers) -> np.ndarray:
  """Return the waveform of utterance `id` degraded; ValueError for an unknown name."""
  del id, others
  if name:
    raise ValueError(f'degradation is {name!r}; none is known')
  return waveform


def others_of(utterance: Utterance, utterances: Sequence[Utterance]) -> ReadOthers:
  """Return a reader of other utterances."""
  del utterance, utterances
  return lambda count: []
