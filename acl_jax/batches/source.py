# SPDX-License-Identifier: Apache-2.0
"""The interface of the corpora that batches are read from."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt64

from data_pipeline.line_index import Lines


@runtime_checkable
class SpeechSource(Protocol):
  """Utterances by index: a `LogMelCorpus`, or an `EncodedCorpus` for a frozen encoder.

  ids, texts: read when they are asked for. lengths: encoder frames of each utterance.
  files: what ids and texts are read from. numbers: the line of each utterance in them,
  one file after another. id_hashes: see `data_pipeline.id_hashes`. subsampling: stored
  frames per encoder frame. width: features of a stored frame. frame_seconds: duration
  of a stored frame.
  broken: indices of the records that could not be read so far.
  """

  ids: Sequence[str]
  texts: Sequence[str]
  lengths: Int[np.ndarray, ' n']
  files: Sequence[Lines]
  numbers: Int[np.ndarray, ' n']
  subsampling: int
  width: int
  frame_seconds: float
  broken: set[int]

  def __len__(self) -> int: ...

  @property
  def id_hashes(self) -> UInt64[np.ndarray, ' n']: ...

  def read(
    self, indices: Collection[SupportsIndex], epoch: int = 0
  ) -> list[dict[str, Any]]:
    """Return id, text and frames [t d] of each utterance.

    RecordError if one cannot be read.
    """
    ...
