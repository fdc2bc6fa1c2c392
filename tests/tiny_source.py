# SPDX-License-Identifier: Apache-2.0
"""A corpus in memory."""

import numpy as np

from acl_jax.batches.tokens import CorpusTokens
from data_pipeline.id_hashes import hash_ids


class TinySource:
  """Encoder frames of width 3; all values of utterance i are i + 0.5."""

  subsampling, width, frame_seconds = 1, 3, 0.02

  def __init__(self, texts, lengths, ids=None):
    self.texts, self.lengths = list(texts), np.asarray(lengths)
    self.ids = ids or [f'u{i}' for i in range(len(self.texts))]
    self.files, self.numbers = [], np.arange(len(self.ids))
    self.broken = set()

  @property
  def id_hashes(self):
    return hash_ids(self.ids)

  def __len__(self):
    return len(self.ids)

  def read(self, indices, epoch=0):
    assert epoch == 0
    return [
      {
        'id': self.ids[i],
        'text': self.texts[i],
        'frames': np.full((self.lengths[i], 3), i + 0.5, np.float16),
      }
      for i in indices
    ]


def tokens_of(source, encode):
  """The tokens of the transcripts of a source, in memory."""
  return CorpusTokens.of_texts(source.texts, encode)
