# SPDX-License-Identifier: Apache-2.0
"""What was heard of a recording."""

import dataclasses
import sys
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

TOKEN_BYTES = 1_000  # of a `HeardToken` with its texts, about


class HeardToken(NamedTuple):
  """A recognised token.

  text: with the space before it, if any. alternatives: the likeliest other tokens with
  their log-probabilities. start, end: seconds; NaN if the recogniser does not know.
  """

  id: int
  text: str
  log_prob: float
  alternatives: tuple[tuple[str, float], ...]
  start: float
  end: float


@dataclasses.dataclass(frozen=True, eq=False)
class Heard:
  """What was heard of a recording.

  content: hash of the samples. embeddings: what the LLM reads. transcript, tokens: the
  model's own decision; None and none if it does not recognise. has_speech: False for
  silence, noise and what is too short to be a word.
  """

  content: str
  embeddings: Float[np.ndarray, 's d']
  transcript: str | None
  tokens: tuple[HeardToken, ...]
  seconds: float
  has_speech: bool = True

  @property
  def num_bytes(self) -> int:
    """Memory that it takes, about."""
    text = sys.getsizeof(self.transcript)
    return self.embeddings.nbytes + text + TOKEN_BYTES * (1 + len(self.tokens))
