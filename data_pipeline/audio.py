# SPDX-License-Identifier: Apache-2.0
"""Audio files to 16 kHz mono float32, within limits that hold while decoding.

Nothing a file says about itself is trusted: codecs are on an allow-list, decided before
the decoding library sees a byte, and lengths are counted as samples arrive.
"""

import dataclasses
import io
import pathlib
import stat
import sys

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, Int16

from data_pipeline import mp3
from data_pipeline.sniff import AudioError, sniff

SAMPLE_RATE = 16_000

_CODECS = {
  'WAV': {'PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'},
  'WAVEX': {'PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'},
  'FLAC': {'PCM_S8', 'PCM_16', 'PCM_24'},
  'OGG': {'VORBIS', 'OPUS'},
  'MP3': {'MPEG_LAYER_III'},
}
_MP3_SLACK = 2 * 1_152  # a cut last frame, and the decoder's delay
_SEEKABLE = {'WAV', 'WAVEX', 'FLAC'}  # to the very sample
_ROUNDED = 0.1  # seconds by which a stretch may go past the end, as times are rounded
_BLOCK = 1 << 18  # samples decoded at a time, over all channels


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a file may cost, and what counts as speech."""

  encoded_bytes: int = 25 << 20
  decoded_bytes: int = 256 << 20  # frames x channels x 4, before resampling
  seconds: float = 600.0
  min_seconds: float = 0.025  # one frame of features
  min_rate: int = 8_000
  max_rate: int = 192_000
  channels: int = 8
  peak: float = 4.0  # lossy codecs overshoot 1; integers stored as floats go far beyond


class _Stream(soundfile.SoundFile):
  """Read from front to back, whatever the header says about the length.

  A file that can seek is sought to the end of each block after reading it: inexactly,
  for MP3.
  """

  def seekable(self) -> bool:
    return False


def read(
  source: str | pathlib.Path | bytes,
  *,
  limits: Limits = Limits(),
  name: str = '',
  span: tuple[int, int] | None = None,
  stretch: tuple[float, float] | None = None,
) -> Float32[np.ndarray, 'samples']:
  """Decodes WAV, FLAC, Ogg or MP3 to 16 kHz mono; AudioError says what is wrong.

  Args:
    source: a path, or the encoded bytes.
    limits: what the file may cost.
    name: what errors call the file; the path unless given.
    span: of a path, offset and size in bytes, where the file holds other things too.
    stretch: start and length in seconds, where only this is wanted.
  """
  name = name or ('audio' if isinstance(source, bytes) else str(source))
  data = source if isinstance(source, bytes) else _load(source, name, limits, span)
  if len(data) > limits.encoded_bytes:
    raise AudioError(name, 'size', f'is over the limit of {limits.encoded_bytes} bytes')
  data = sniff(data, name)
  try:
    with _Stream(io.BytesIO(data)) as file:
      _check_header(file, name, limits)
      if stretch:
        samples = _cut(file, name, limits, stretch)
      else:
        samples = _decode(file, name, limits)
        _check_whole(file, len(samples), data, name)
      rate = file.samplerate
  except soundfile.LibsndfileError as error:
    raise AudioError(name, 'content', f'cannot be decoded ({error})') from None
  return _resample(samples, rate, name, limits)


def from_pcm(
  samples: Int16[np.ndarray, 'n'], rate: int, name: str, limits: Limits = Limits()
) -> Float32[np.ndarray, 'samples']:
  """Mono 16-bit samples, `rate` per second, at 16 kHz; AudioError as `read`."""
  _check_rate(rate, name, limits)
  if len(samples) > limits.seconds * rate:
    raise AudioError(name, 'duration', f'is over the limit of {limits.seconds:g} s')
  return _resample(samples.astype(np.float32) / 32768, rate, name, limits)


def _resample(
  samples: Float32[np.ndarray, 'n'], rate: int, name: str, limits: Limits
) -> Float32[np.ndarray, 'samples']:
  if len(samples) < limits.min_seconds * rate:
    seconds = len(samples) / rate
    raise AudioError(
      name, 'duration', f'is {seconds:.3f} s, limit at least {limits.min_seconds} s'
    )
  if rate == SAMPLE_RATE:
    return samples
  return soxr.resample(samples, rate, SAMPLE_RATE, 'HQ').astype(np.float32, copy=False)


def _load(
  path: str | pathlib.Path, name: str, limits: Limits, span: tuple[int, int] | None
) -> bytes:
  path = pathlib.Path(path)
  most = limits.encoded_bytes + 1  # the one more shows that there is too much
  offset, size = (span[0], min(span[1], most)) if span else (0, most)
  try:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
      raise AudioError(name, 'file', 'is not a regular file')
    with path.open('rb') as file:
      file.seek(offset)
      data = file.read(size)
  except OSError as error:
    raise AudioError(name, 'file', f'cannot be read ({error.strerror})') from None
  if span and len(data) < size:
    raise AudioError(name, 'content', f'is truncated: {len(data)} of {size} bytes')
  return data


def _check_header(file: soundfile.SoundFile, name: str, limits: Limits) -> None:
  if file.subtype not in _CODECS.get(file.format, ()):
    raise AudioError(
      name, 'codec', f'is {file.subtype} in {file.format}, not supported'
    )
  _check_rate(file.samplerate, name, limits)
  if file.channels > limits.channels:
    raise AudioError(name, 'channels', f'are {file.channels}, limit {limits.channels}')


def _check_rate(rate: int, name: str, limits: Limits) -> None:
  least, most = limits.min_rate, limits.max_rate
  if not least <= rate <= most:
    problem = f'is {rate} Hz, limits {least} and {most} Hz'
    raise AudioError(name, 'sample rate', problem)


def _cut(
  file: soundfile.SoundFile,
  name: str,
  limits: Limits,
  stretch: tuple[float, float],
) -> Float32[np.ndarray, 'samples']:
  """The samples of a stretch; those before it are decoded only where they must."""
  rate = file.samplerate
  start, count = (round(seconds * rate) for seconds in stretch)
  if file.format in _SEEKABLE:
    file.seek(min(start, file.frames))
    samples = _decode(file, name, limits, count)
  else:
    samples = _decode(file, name, limits, start + count)[start:]
  if len(samples) < count - _ROUNDED * rate:
    lacking = (count - len(samples)) / rate
    problem = f'is {lacking:.3f} s too short for {stretch[1]:g} s from {stretch[0]:g} s'
    raise AudioError(name, 'duration', problem)
  return samples


def _decode(
  file: soundfile.SoundFile, name: str, limits: Limits, most: int = sys.maxsize
) -> Float32[np.ndarray, 'samples']:
  """At most so many samples, mixed to mono, at the file's own rate."""
  max_frames = limits.decoded_bytes // (4 * file.channels)
  blocks, frames = [], 0
  while True:
    size = min(_BLOCK // file.channels, most - frames)
    block = file.read(size, dtype='float32', always_2d=True)
    frames += len(block)
    if frames > limits.seconds * file.samplerate:
      raise AudioError(name, 'duration', f'is over the limit of {limits.seconds:g} s')
    if frames > max_frames:
      raise AudioError(
        name, 'decoded size', f'is over the limit of {limits.decoded_bytes} bytes'
      )
    if not len(block):
      break
    peak = max(block.max(), -block.min())
    if not peak <= limits.peak:  # NaN compares false
      raise AudioError(name, 'samples', f'reach {peak}, limit {limits.peak:g}')
    blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1))
  return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def _check_whole(
  file: soundfile.SoundFile, frames: int, data: bytes, name: str
) -> None:
  expected = file.frames
  if file.format == 'MP3' and not mp3.states_its_length(data):
    expected = mp3.count_samples(data) - _MP3_SLACK
  if frames < expected < 2**62:  # a FLAC of unknown length claims 2**63 - 1
    raise AudioError(name, 'content', f'gives only {frames} of {expected} frames')
