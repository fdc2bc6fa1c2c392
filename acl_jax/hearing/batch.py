# SPDX-License-Identifier: Apache-2.0
"""Hears many recordings, in batches of windows of similar length."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from acl_jax.hearing.heard import Heard
from acl_jax.hearing.hearing import Hearing
from acl_jax.hearing.pieces import Piece
from acl_jax.hearing.windows import Window

MAX_ROWS = 8  # windows of a batch
FRAMES_PER_BATCH = 8_000  # log-mel frames, padding included; long windows are fewer


def hear_all(
  hearing: Hearing, recordings: Sequence[Float[np.ndarray, ' _']]
) -> Iterator[tuple[int, Heard]]:
  """Yield the index of each recording and what `Hearing.hear` hears in it.

  In whatever order they are done. Up to rounding, nothing depends on the batches.
  recordings: see `Hearing.hear`, which also says what raises ValueError.
  """
  for samples in recordings:
    hearing.check(samples)
  windows: list[tuple[int, int, Window]] = []  # recording, place in it
  pieces: dict[int, list[Piece | None]] = {}
  for index, samples in enumerate(recordings):
    cut = hearing.recogniser.cut(samples)
    if cut is None:
      yield index, hearing.hear(samples)
      continue
    pieces[index] = [None] * len(cut)
    windows += [(index, place, window) for place, window in enumerate(cut)]
    if not cut:
      yield index, hearing.remember_whole(recordings[index], [])
  windows.sort(key=lambda each: len(each[2].samples))
  while windows:
    longest = hearing.recogniser.padded_length(windows[-1][2])
    rows = max(1, min(MAX_ROWS, FRAMES_PER_BATCH // longest))
    batch, windows = windows[-rows:], windows[:-rows]
    heard = hearing.recogniser.hear_batch([window for *_, window in batch], rows)
    for (index, place, _), piece in zip(batch, heard, strict=True):
      pieces[index][place] = piece
    for index in dict.fromkeys(index for index, *_ in batch):
      complete = [piece for piece in pieces[index] if piece is not None]
      if len(complete) == len(pieces[index]):
        yield index, hearing.remember_whole(recordings[index], complete)
