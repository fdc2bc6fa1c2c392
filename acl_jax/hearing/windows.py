# SPDX-License-Identifier: Apache-2.0
"""Cuts a recording into overlapping windows, at pauses, while it arrives.

    |------- window 0 -------|
    |------ own -------|
                     |------- window 1 -------|
                     .  |----- own -----|
                     context

A window has a fixed length. Once more than a window has arrived, the recording is cut
at a quiet place in its second half; the next window starts a little before the cut, so
that the encoder knows what precedes. Each frame is the own frame of one window. A cut
depends on its window alone, so the sizes in which samples arrive change nothing.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from data_pipeline.features import HOP

SMOOTHING = 10  # frames on each side over which power is averaged, 0.2 s in all
PAUSE = 4.0  # times the lowest power, 6 dB: as quiet as the quietest place
SILENCE = 1e-6  # power of the loudest place in a silent window, -60 dB of full scale
SILENCE_BELOW_PEAK = 1e-4  # or, times that of the loudest place before, -40 dB
LOWEST_POWER = 1e-10  # below it, all is equally quiet


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
  """A stretch of a recording.

  start: the log-mel frame of the recording at which it starts. own: its first own frame
  and the one after its last, counted from `start`; None is the end of the recording.
  silent: whether the own frames hold no speech. whole: whether it is the recording.
  """

  samples: Float[np.ndarray, ' samples']
  start: int
  own: tuple[int, int | None]
  silent: bool = False

  @property
  def whole(self) -> bool:
    return self.start == 0 and self.own == (0, None)

  def alone(self) -> 'Window':
    """Return the window as if its own frames were all of a recording."""
    first, stop = self.own
    samples = self.samples[first * HOP : None if stop is None else stop * HOP]
    return dataclasses.replace(
      self, samples=samples, start=self.start + first, own=(0, None)
    )


@dataclasses.dataclass(frozen=True)
class WindowSizes:
  """Log-mel frames of a window, and of the context before and after its own frames.

  step: log-mel frames of an encoder frame; windows start and end at multiples.
  """

  window: int
  step: int

  @property
  def context(self) -> int:
    return min(100, self.window // 8) // self.step * self.step

  def __post_init__(self):
    if self.context < 4:
      raise ValueError(
        f'the encoder takes {self.window} log-mel frames, {self.step} per encoder'
        ' frame, which is too few for windows that overlap'
      )


class Windows:
  """Cuts a recording that arrives piece by piece."""

  def __init__(self, sizes: WindowSizes):
    self.sizes = sizes
    self._blocks: list[np.ndarray] = []
    self._count = 0  # samples in the blocks
    self._start = 0  # the log-mel frame where they start
    self._first = 0  # own frame, from there
    self._peak = 0.0

  def append(self, samples: Float[np.ndarray, ' samples']) -> Iterator[Window]:
    """Take samples; yield the windows that are complete."""
    self._blocks.append(samples)
    self._count += len(samples)
    while self._count >= (self.sizes.window + 1) * HOP:
      samples = self._join()
      length = self.sizes.window * HOP
      power = frame_power(samples[:length])
      stop = find_cut(power, self.sizes)
      silent = self._is_silent(power[self._first : stop])
      yield Window(samples[:length], self._start, (self._first, stop), silent)
      start = stop - self.sizes.context
      self._start, self._first = self._start + start, self.sizes.context
      self._blocks = [samples[start * HOP :]]
      self._count = len(self._blocks[0])

  def finish(self) -> Window:
    """Return the last window."""
    samples = self._join()
    window = Window(samples, self._start, (self._first, None))
    if window.whole:
      return window
    silent = self._is_silent(frame_power(samples)[self._first :])
    return dataclasses.replace(window, silent=silent)

  def _join(self) -> np.ndarray:
    samples = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.float32)
    self._blocks = [samples]
    return samples

  def _is_silent(self, power: np.ndarray) -> bool:
    loudest = float(power.max())
    self._peak = max(self._peak, loudest)
    return loudest <= max(SILENCE, SILENCE_BELOW_PEAK * self._peak)


def frame_power(samples: Float[np.ndarray, ' samples']) -> Float[np.ndarray, ' t']:
  """Return the mean power around every log-mel frame."""
  count = len(samples) // HOP
  frames = samples[: count * HOP].reshape(count, HOP)
  power = np.einsum('th,th->t', frames, frames, dtype=np.float64) / HOP
  total = np.concatenate([[0.0], np.cumsum(power)])
  low = np.maximum(np.arange(count) - SMOOTHING, 0)
  high = np.minimum(np.arange(count) + SMOOTHING + 1, count)
  return np.maximum(total[high] - total[low], 0.0) / (high - low)


def find_cut(power: Float[np.ndarray, ' t'], sizes: WindowSizes) -> int:
  """Return the frame to cut a window at: the middle of the last quiet place.

  It is a multiple of `sizes.step` in the second half, and leaves room for the context.
  """
  first, stop = sizes.window // 2 + sizes.step, sizes.window - sizes.context
  candidates = power[first:stop]
  quiet = candidates <= max(PAUSE * float(candidates.min()), LOWEST_POWER)
  last = int(np.flatnonzero(quiet)[-1])
  before = np.flatnonzero(~quiet[:last])
  start = int(before[-1]) + 1 if len(before) else 0
  return (first + (start + last) // 2) // sizes.step * sizes.step
