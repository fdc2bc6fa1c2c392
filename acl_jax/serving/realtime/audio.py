# SPDX-License-Identifier: Apache-2.0
"""The input audio buffer: from base64 PCM to utterances at 16 kHz.

What comes out does not depend on how the audio was cut into appends: everything works
on frames of 32 ms.
"""

import base64
import binascii
import collections
import math
from typing import NamedTuple

import numpy as np
import soxr
from jaxtyping import Float32

from acl_jax.serving.realtime.errors import ClientError
from acl_jax.serving.realtime.schema import AudioInput
from acl_jax.serving.realtime.vad import START_FRAMES, TurnDetector
from data_pipeline.voice_activity import FRAME, FRAME_MS, RATE, SpeechModel

MIN_SECONDS = 0.1  # of an utterance that a client commits
NOTHING = np.zeros(0, np.float32)

Samples = Float32[np.ndarray, ' n']


class Started(NamedTuple):
  """A turn began; milliseconds from the start of the session's audio."""

  start_ms: int


class Speech(NamedTuple):
  """More audio of the open utterance, at 16 kHz."""

  samples: Samples


class Stopped(NamedTuple):
  """The turn ended."""

  end_ms: int


Action = Started | Speech | Stopped


def decode_pcm(audio: str, param: str = 'audio') -> bytes:
  """Decode base64 to 16-bit samples; ClientError unless it is a whole number."""
  try:
    data = base64.b64decode(audio, validate=True)
  except (binascii.Error, ValueError):
    raise ClientError(f'{param} is not valid base64', 'invalid_audio', param) from None
  if len(data) % 2:
    raise ClientError(
      f'{param} has {len(data)} bytes, which is no whole number of 16-bit samples',
      'invalid_audio',
      param,
    )
  return data


def resample(data: bytes, rate: int) -> Samples:
  """Convert all 16-bit samples of a clip to 16 kHz float32."""
  stream = PCMStream(rate)
  return np.concatenate([stream.append(data), stream.flush()])


class PCMStream:
  """Converts 16-bit samples to 16 kHz float32, in blocks of 32 ms."""

  def __init__(self, rate: int):
    self._rate, self._block = rate, 2 * rate * FRAME // RATE  # bytes
    self._rest = b''
    self._resampler = self._make_resampler()

  def _make_resampler(self) -> soxr.ResampleStream:
    return soxr.ResampleStream(self._rate, RATE, 1, dtype='float32')

  def append(self, data: bytes) -> Samples:
    """Take more bytes; return the samples that became complete."""
    data = self._rest + data
    end = len(data) - len(data) % self._block
    self._rest = data[end:]
    starts = range(0, end, self._block)
    blocks = [self._convert(data[i : i + self._block]) for i in starts]
    return np.concatenate([NOTHING, *blocks])

  def flush(self) -> Samples:
    """Return the samples that are left; what follows is a new stream."""
    rest = self._convert(self._rest, last=True)
    self._rest, self._resampler = b'', self._make_resampler()
    return rest

  def _convert(self, block: bytes, last: bool = False) -> Samples:
    samples = np.frombuffer(block, '<i2').astype(np.float32) / 32_768
    if self._rate == RATE:
      return samples
    return self._resampler.resample_chunk(samples, last=last)


class InputBuffer:
  """The audio that is not committed yet; it is passed on while it arrives.

  Not thread-safe. max_seconds: of an utterance.
  """

  def __init__(self, settings: AudioInput, model: SpeechModel, max_seconds: float):
    self.settings = settings
    self._rate, self._max_seconds = settings.format.rate, max_seconds
    self._stream = PCMStream(self._rate)
    detection, self._detector = settings.turn_detection, None
    padding = START_FRAMES
    if detection:
      self._detector = TurnDetector(detection, model)
      padding += math.ceil(detection.prefix_padding_ms / FRAME_MS)
    self._padding: collections.deque[Samples] = collections.deque(maxlen=padding)
    self._rest = NOTHING  # less than a frame
    self._position = 0  # samples that were looked at
    self._received = 0  # bytes since the last commit
    self._length = 0  # samples of the turn

  def append(self, data: bytes) -> list[Action]:
    """Take 16-bit samples; return what they begin, continue and end.

    ClientError if the client does not commit in time; then nothing is taken.
    """
    if self._detector:
      return self._detect(self._detector, self._stream.append(data))
    received = self._received + len(data)
    if received > 2 * self._rate * self._max_seconds:
      raise ClientError(
        f'the input audio buffer would hold {received / 2 / self._rate:.1f} s; the'
        f' limit is {self._max_seconds:g} s; commit or clear it',
        'input_audio_buffer_full',
        'audio',
      )
    self._received = received
    samples = self._stream.append(data)
    return [Speech(samples)] if samples.size else []

  def commit(self) -> list[Action]:
    """End the utterance now; return what is left of it. ClientError if too short."""
    if self._detector and not self._detector.speaking:
      raise ClientError(
        'no speech is in the input audio buffer; with turn_detection, it is committed'
        ' when a turn ends',
        'input_audio_buffer_commit_empty',
      )
    seconds = self._received / 2 / self._rate
    if not self._detector and seconds < MIN_SECONDS:
      raise ClientError(
        f'the input audio buffer has {1_000 * seconds:.0f} ms of audio; at least'
        f' {1_000 * MIN_SECONDS:.0f} ms are needed',
        'input_audio_buffer_commit_empty',
      )
    rest = np.concatenate([self._rest, self._stream.flush()])
    self._position += rest.size
    self._reset()
    return [Speech(rest)] if rest.size else []

  def clear(self) -> None:
    """Drop what is not committed."""
    self._stream.flush()
    self._reset()

  def _reset(self) -> None:
    self._rest, self._received, self._length = NOTHING, 0, 0
    self._padding.clear()
    if self._detector:
      self._detector.reset()

  def _detect(self, detector: TurnDetector, samples: Samples) -> list[Action]:
    samples = np.concatenate([self._rest, samples])
    end = samples.size - samples.size % FRAME
    self._rest = samples[end:]
    actions: list[Action] = []
    for frame in samples[:end].reshape(-1, FRAME):
      actions += self._step(detector, frame)
    return actions

  def _step(self, detector: TurnDetector, frame: Samples) -> list[Action]:
    changed = detector.step(frame)
    self._position += FRAME
    position_ms = self._position * 1_000 // RATE
    if changed and detector.speaking:
      samples = np.concatenate([*self._padding, frame][-(self._padding.maxlen or 1) :])
      self._padding.clear()
      self._length = samples.size
      start_ms = position_ms - samples.size * 1_000 // RATE
      return [Started(start_ms), Speech(samples)]
    if not changed and not detector.speaking:
      self._padding.append(frame)
      return []
    self._length += FRAME
    if not changed and self._length + FRAME <= self._max_seconds * RATE:
      return [Speech(frame)]
    detector.reset()  # the turn ended, or is as long as it may be
    return [Speech(frame), Stopped(position_ms)]
