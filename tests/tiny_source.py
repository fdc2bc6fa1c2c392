# SPDX-License-Identifier: Apache-2.0
"""A corpus without files."""

import numpy as np


class Source:
  """Encoded recordings in memory."""

  subsampling, width = 1, 3

  def __init__(self, texts, lengths, ids=None):
    self.texts, self.lengths = list(texts), np.asarray(lengths)
    self.ids = ids or [f'u{i}' for i in range(len(self.texts))]

  def read(self, indices, epoch):
    assert epoch == 0
    for i in indices:
      frames = np.full((self.lengths[i], 3), i + 0.5, np.float16)
      yield {'id': self.ids[i], 'text': self.texts[i], 'frames': frames}
