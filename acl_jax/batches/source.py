# SPDX-License-Identifier: Apache-2.0
"""What batches are read from: a corpus of log-mel frames or of encoder frames."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol, SupportsIndex

import numpy as np
from jaxtyping import Int


class SpeechSource(Protocol):
  """Utterances by index: `LogMelCorpus`, or `EncodedCorpus` behind a frozen encoder.

  lengths: encoder frames of every utterance. subsampling: stored frames per encoder
  frame. width: of a stored frame. frame_seconds: of a stored frame.
  broken: indices of the records that could not be read so far.
  """

  ids: Sequence[str]
  texts: Sequence[str]
  lengths: Int[np.ndarray, ' n']
  subsampling: int
  width: int
  frame_seconds: float
  broken: set[int]

  def __len__(self) -> int: ...

  def read(
    self, indices: Collection[SupportsIndex], epoch: int = 0
  ) -> list[dict[str, Any]]:
    """Return id, text and frames [t d] of each utterance; RecordError if unreadable."""
    ...
