# SPDX-License-Identifier: Apache-2.0
"""Cuts a long recording at pauses into pieces that are heard one by one."""

import numpy as np

HOP = 160  # samples, 10 ms: a frame
SMOOTHING = 10  # frames on each side over which power is averaged
PAUSE = 4.0  # times the lowest power: as quiet as the quietest place
SILENCE = 1e-6  # power of the loudest place in a silent piece
SILENCE_BELOW_PEAK = 1e-4  # or, times that of the loudest place before
LOWEST_POWER = 1e-10  # below it, all is equally quiet


def cut(audio: np.ndarray, window: int, step: int) -> list[np.ndarray]:
  """Return the pieces of a recording that are not silent; all of a short one.

  A window is cut at the last quiet place of its second half; the next one starts a
  little before the cut, but a piece holds only what follows it.

  window: frames at most. step: pieces start and end at multiples of so many frames.
  """
  context = min(100, window // 8) // step * step
  pieces, start, first, peak = [], 0, 0, 0.0
  while len(audio) - start * HOP >= (window + 1) * HOP:
    power = _power(audio[start * HOP : (start + window) * HOP])
    stop = _find_cut(power, window, context, step)
    peak = max(peak, float(power[first:stop].max()))
    if power[first:stop].max() > max(SILENCE, SILENCE_BELOW_PEAK * peak):
      pieces.append(audio[(start + first) * HOP : (start + stop) * HOP])
    start, first = start + stop - context, context
  if start == 0:
    return [audio]
  power = _power(audio[start * HOP :])[first:]
  if power.max() > max(SILENCE, SILENCE_BELOW_PEAK * max(peak, float(power.max()))):
    pieces.append(audio[(start + first) * HOP :])
  return pieces


def _power(audio: np.ndarray) -> np.ndarray:
  """Mean power around every frame."""
  count = len(audio) // HOP
  frames = audio[: count * HOP].reshape(count, HOP)
  power = np.einsum('th,th->t', frames, frames, dtype=np.float64) / HOP
  total = np.concatenate([[0.0], np.cumsum(power)])
  low = np.maximum(np.arange(count) - SMOOTHING, 0)
  high = np.minimum(np.arange(count) + SMOOTHING + 1, count)
  return np.maximum(total[high] - total[low], 0.0) / (high - low)


def _find_cut(power: np.ndarray, window: int, context: int, step: int) -> int:
  """The middle of the last quiet place in the second half of a window."""
  first = window // 2 + step
  candidates = power[first : window - context]
  quiet = candidates <= max(PAUSE * float(candidates.min()), LOWEST_POWER)
  last = int(np.flatnonzero(quiet)[-1])
  before = np.flatnonzero(~quiet[:last])
  start = int(before[-1]) + 1 if len(before) else 0
  return (first + (start + last) // 2) // step * step
