# SPDX-License-Identifier: Apache-2.0
"""Limits on audio, and the error when one is exceeded; enforced while decoding."""

import dataclasses
import sys

import numpy as np
from jaxtyping import Float32


class AudioError(ValueError):
  """Audio that cannot be used: `NAME: FIELD is …, limit …`."""

  def __init__(self, name: str, field: str, problem: str):
    super().__init__(f'{name}: {field} {problem}')
    self.field = field


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits on the size and content of an audio file; maxima unless named `min_`."""

  encoded_bytes: int = 25 << 20  # of the file, also where only a part of it is read
  decoded_bytes: int = 256 << 20  # frames x channels x 4, before resampling
  seconds: float = 600.0
  min_seconds: float = 0.025  # one frame of features
  min_rate: int = 8_000
  max_rate: int = 192_000
  channels: int = 8
  peak: float = 4.0  # lossy codecs overshoot 1; integers stored as floats far exceed it

  def check_rate(self, rate: int, name: str) -> None:
    """Raise AudioError for a sample rate out of range."""
    low, high = self.min_rate, self.max_rate
    if not low <= rate <= high:
      problem = f'is {rate} Hz, limits {low} and {high} Hz'
      raise AudioError(name, 'sample rate', problem)

  def check_channels(self, channels: int, name: str) -> None:
    """Raise AudioError for too many channels."""
    if channels > self.channels:
      raise AudioError(name, 'channels', f'are {channels}, limit {self.channels}')


DEFAULT_LIMITS = Limits()


class Mixer:
  """Collects decoded blocks, mixed to mono; AudioError once a limit is exceeded.

  skip: frames that are dropped first. count: frames that are kept at most.
  """

  def __init__(
    self,
    name: str,
    limits: Limits,
    rate: int,
    channels: int,
    skip: int = 0,
    count: int = sys.maxsize,
  ):
    self._name, self._limits = name, limits
    self.rate, self.channels, self._skip, self._count = rate, channels, skip, count
    self._blocks: list[np.ndarray] = []
    self.frames = 0  # that are kept

  @property
  def missing(self) -> int:
    """Number of frames that are still wanted, those that are dropped included."""
    return self._skip + self._count - self.frames

  def append(self, block: Float32[np.ndarray, 'n channels']) -> None:
    """Take the next frames."""
    skipped = min(self._skip, len(block))
    self._skip -= skipped
    block = block[skipped : skipped + self._count - self.frames]
    if not len(block):
      return
    self.frames += len(block)
    limits, name = self._limits, self._name
    if self.frames > limits.seconds * self.rate:
      raise AudioError(name, 'duration', f'is over the limit of {limits.seconds:g} s')
    if 4 * self.frames * self.channels > limits.decoded_bytes:
      problem = f'is over the limit of {limits.decoded_bytes} bytes'
      raise AudioError(name, 'decoded size', problem)
    peak = max(block.max(), -block.min())
    if not peak <= limits.peak:  # NaN compares false
      raise AudioError(name, 'samples', f'reach {peak}, limit {limits.peak:g}')
    self._blocks.append(block[:, 0].copy() if self.channels == 1 else block.mean(1))

  def join(self) -> Float32[np.ndarray, 'frames']:
    """Return all that was taken."""
    return np.concatenate([np.empty(0, np.float32), *self._blocks])
