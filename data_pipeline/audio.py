# SPDX-License-Identifier: Apache-2.0
"""Audio files decoded to 16 kHz mono float32, with limits enforced while decoding.

Headers are not trusted: codecs are checked against an allow-list before the decoding
library reads the file, and lengths are counted in decoded samples.
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
from data_pipeline.sniff import AudioError, sanitize

SAMPLE_RATE = 16_000

_CODECS = {
  'WAV': {'PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'},
  'WAVEX': {'PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'},
  'FLAC': {'PCM_S8', 'PCM_16', 'PCM_24'},
  'OGG': {'VORBIS', 'OPUS'},
  'MP3': {'MPEG_LAYER_III'},
}
_MP3_TOLERANCE = 2 * 1_152  # samples: an incomplete last frame and the decoder's delay
_SEEKABLE = {'WAV', 'WAVEX', 'FLAC'}  # with sample accuracy
_ROUNDING_SECONDS = 0.1  # by which rounded times may exceed the length of a file
_BLOCK_SAMPLES = 1 << 18  # decoded at a time, over all channels


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits on the size and content of an audio file; maxima unless named `min_`."""

  encoded_bytes: int = 25 << 20
  decoded_bytes: int = 256 << 20  # frames x channels x 4, before resampling
  seconds: float = 600.0
  min_seconds: float = 0.025  # one frame of features
  min_rate: int = 8_000
  max_rate: int = 192_000
  channels: int = 8
  peak: float = 4.0  # lossy codecs overshoot 1; integers stored as floats far exceed it


class _Stream(soundfile.SoundFile):
  """A file that is read sequentially, whatever length its header states.

  The base class seeks to the end of each block that it has read from a seekable file,
  which is inexact for MP3.
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
  """Decode WAV, FLAC, Ogg or MP3 to 16 kHz mono; AudioError if it cannot be used.

  Args:
    source: a path, or the encoded bytes.
    limits: on its size and content.
    name: of the file in errors; the path by default.
    span: offset and size in bytes of the audio within the file at a path.
    stretch: start and length in seconds of the segment to return; all by default.
  """
  name = name or ('audio' if isinstance(source, bytes) else str(source))
  data = (
    source if isinstance(source, bytes) else _read_bytes(source, name, limits, span)
  )
  if len(data) > limits.encoded_bytes:
    raise AudioError(name, 'size', f'is over the limit of {limits.encoded_bytes} bytes')
  data = sanitize(data, name)
  try:
    with _Stream(io.BytesIO(data)) as file:
      _check_header(file, name, limits)
      if stretch:
        samples = _decode_stretch(file, name, limits, stretch)
      else:
        samples = _decode(file, name, limits)
        _check_complete(file, len(samples), data, name)
      rate = file.samplerate
  except soundfile.LibsndfileError as error:
    raise AudioError(name, 'content', f'cannot be decoded ({error})') from None
  return _resample(samples, rate, name, limits)


def read_excerpt(
  path: str | pathlib.Path,
  seconds: float,
  position: float,
  limits: Limits = Limits(),
) -> Float32[np.ndarray, 'samples']:
  """Decode `seconds` somewhere in a file, or all of a shorter one; as `read` does.

  position: of the excerpt, from 0 for the first to 1 for the last.
  """
  name = str(path)
  data = _read_bytes(path, name, limits, None)
  if len(data) > limits.encoded_bytes:
    raise AudioError(name, 'size', f'is over the limit of {limits.encoded_bytes} bytes')
  try:
    with _Stream(io.BytesIO(sanitize(data, name))) as file:
      _check_header(file, name, limits)
      rate = file.samplerate
      count = round(seconds * rate)
      frames = min(file.frames, int(limits.seconds * rate))  # as the header states
      start = int(position * max(0, frames - count))
      samples = _decode_from(file, name, limits, start, count)
  except soundfile.LibsndfileError as error:
    raise AudioError(name, 'content', f'cannot be decoded ({error})') from None
  return _resample(samples, rate, name, limits)


def from_pcm(
  samples: Int16[np.ndarray, 'n'], rate: int, name: str, limits: Limits = Limits()
) -> Float32[np.ndarray, 'samples']:
  """Convert mono 16-bit samples to 16 kHz; AudioError as for `read`."""
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
      name, 'duration', f'is {seconds:.3f} s, limit: at least {limits.min_seconds} s'
    )
  if rate == SAMPLE_RATE:
    return samples
  return soxr.resample(samples, rate, SAMPLE_RATE, 'HQ').astype(np.float32, copy=False)


def _read_bytes(
  path: str | pathlib.Path, name: str, limits: Limits, span: tuple[int, int] | None
) -> bytes:
  path = pathlib.Path(path)
  max_bytes = limits.encoded_bytes + 1  # one more, to detect larger files
  offset, size = (span[0], min(span[1], max_bytes)) if span else (0, max_bytes)
  try:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may be endless
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
      name, 'codec', f'is {file.subtype} in {file.format}, which is not supported'
    )
  _check_rate(file.samplerate, name, limits)
  if file.channels > limits.channels:
    raise AudioError(name, 'channels', f'are {file.channels}, limit {limits.channels}')


def _check_rate(rate: int, name: str, limits: Limits) -> None:
  low, high = limits.min_rate, limits.max_rate
  if not low <= rate <= high:
    raise AudioError(name, 'sample rate', f'is {rate} Hz, limits {low} and {high} Hz')


def _decode_stretch(
  file: soundfile.SoundFile,
  name: str,
  limits: Limits,
  stretch: tuple[float, float],
) -> Float32[np.ndarray, 'samples']:
  """Return the samples of a stretch; AudioError if it goes beyond the end."""
  rate = file.samplerate
  start, count = (round(seconds * rate) for seconds in stretch)
  samples = _decode_from(file, name, limits, start, count)
  if len(samples) < count - _ROUNDING_SECONDS * rate:
    missing = (count - len(samples)) / rate
    problem = f'is {missing:.3f} s too short for {stretch[1]:g} s from {stretch[0]:g} s'
    raise AudioError(name, 'duration', problem)
  return samples


def _decode_from(
  file: soundfile.SoundFile, name: str, limits: Limits, start: int, count: int
) -> Float32[np.ndarray, 'samples']:
  """Return up to `count` samples; decodes those before only if it cannot seek."""
  if file.format not in _SEEKABLE:
    return _decode(file, name, limits, start + count)[start:]
  file.seek(min(start, file.frames))
  return _decode(file, name, limits, count)


def _decode(
  file: soundfile.SoundFile, name: str, limits: Limits, count: int = sys.maxsize
) -> Float32[np.ndarray, 'samples']:
  """Return up to `count` samples, mixed to mono, at the file's own rate."""
  max_frames = limits.decoded_bytes // (4 * file.channels)
  blocks, frames = [], 0
  while True:
    size = min(_BLOCK_SAMPLES // file.channels, count - frames)
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


def _check_complete(
  file: soundfile.SoundFile, frames: int, data: bytes, name: str
) -> None:
  """Raise AudioError if fewer frames were decoded than the file should have."""
  expected = file.frames
  if file.format == 'MP3' and not mp3.has_length_header(data):
    expected = mp3.count_samples(data) - _MP3_TOLERANCE
  if frames < expected < 2**62:  # a FLAC of unknown length claims 2**63 - 1
    raise AudioError(name, 'content', f'has only {frames} of {expected} frames')
