# SPDX-License-Identifier: Apache-2.0
"""Turns the windows of one recording into pieces, as they arrive.

A decoder (`adapter.reach` is None) writes the own frames of each window. Otherwise own
frames of consecutive windows are joined and then adapted, a stretch at a time, with
enough frames on both sides that the stretches do not show.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from acl_jax.hearing.pieces import Piece, Recogniser
from acl_jax.hearing.windows import Window
from acl_jax.runtime.rounding import round_up

LONGEST_RUN = 50  # encoder frames: a CTC token that is longer may be cut at a seam


class DecoderJoiner:
  """Windows that a decoder writes one by one."""

  def __init__(self, recogniser: Recogniser):
    self._recogniser = recogniser

  def warm_up(self) -> None:
    """Compile nothing beyond what `Recogniser.warm_up` compiles."""

  def append(self, window: Window) -> Iterator[Piece]:
    """Yield what was heard in a window."""
    if not window.silent:
      yield self._recogniser.hear(window.alone())

  def finish(self, window: Window) -> Iterator[Piece]:
    """Yield what was heard in the last window."""
    yield from self.append(window)


class FrameJoiner:
  """Encoder frames joined across windows, then adapted in overlapping stretches.

  reach: see `protocols.Adapter`.
  """

  def __init__(self, recogniser: Recogniser, reach: int):
    self._recogniser = recogniser
    sizes, stack = recogniser.sizes, recogniser.model.adapter.config.stack
    self.margin = round_up(reach + LONGEST_RUN, stack)
    self.length = round_up(max(sizes.window // sizes.step, 4 * self.margin), stack)
    self._frames: list[np.ndarray] = []
    self._start = 0  # encoder frame of the recording at which they start
    self._continues = False  # whether frames before them were adapted

  def warm_up(self) -> None:
    """Compile the only shape that is adapted."""
    size = self._recogniser.model.encoder.config.output_size
    self._recogniser.adapt(np.zeros((1, size), np.float32), (0, 1), self.length)

  def append(self, window: Window) -> Iterator[Piece]:
    """Yield what is complete once a window has arrived."""
    if window.silent:
      yield from self._flush()
      return
    step = self._recogniser.sizes.step
    if not self._frames:
      self._start = (window.start + window.own[0]) // step
    self._frames.append(self._recogniser.encode(window))
    frames = np.concatenate(self._frames)
    while len(frames) >= self.length:
      stop = self.length - self.margin
      yield self._adapt(frames[: self.length], stop)
      frames = frames[stop - self.margin :]
      self._start += stop - self.margin
      self._continues = True
    self._frames = [frames]

  def finish(self, window: Window) -> Iterator[Piece]:
    """Yield the rest, with the last window."""
    if window.whole:
      yield self._recogniser.hear(window)
      return
    yield from self.append(window)
    yield from self._flush()

  def _flush(self) -> Iterator[Piece]:
    """Yield what is left of a stretch that ends."""
    if self._frames:
      yield self._adapt(np.concatenate(self._frames), self.length)
    self._frames, self._continues = [], False

  def _adapt(self, frames: Float[np.ndarray, 't d'], stop: int) -> Piece:
    own = (self.margin if self._continues else 0, stop)
    heard = self._recogniser.adapt(frames, own, self.length)
    start = self._start * self._recogniser.sizes.step
    return self._recogniser.to_piece(heard, start, self._continues)


Joiner = DecoderJoiner | FrameJoiner


def new_joiner(recogniser: Recogniser) -> Joiner:
  """Return what turns the windows of a recording into pieces."""
  reach = recogniser.model.adapter.reach
  if reach is None:
    return DecoderJoiner(recogniser)
  return FrameJoiner(recogniser, reach)
