# SPDX-License-Identifier: Apache-2.0
"""The interface of the corpora that batches are read from."""

from collections.abc import Collection
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Int


@runtime_checkable
class SpeechSource(Protocol):
  """Utterances by index: a `LogMelCorpus`, or an `EncodedCorpus` for a frozen encoder.

  lengths: encoder frames of each utterance. subsampling: stored frames per encoder
  frame. width: features of a stored frame. frame_seconds: duration of a stored frame.
  broken: indices of the records that could not be read so far.
  """

  ids: list[str]
  texts: list[str]
  lengths: Int[np.ndarray, ' n']
  subsampling: int
  width: int
  frame_seconds: float
  broken: set[int]

  def __len__(self) -> int: ...

  def read(
    self, indices: Collection[SupportsIndex], epoch: int = 0
  ) -> list[dict[str, Any]]:
    """Return id, text and frames [t d] of each utterance.

    RecordError if one cannot be read.
    """
    ...
