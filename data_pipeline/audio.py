# SPDX-License-Identifier: Apache-2.0
"""Audio files decoded to 16 kHz mono float32, with limits enforced while decoding.

libsndfile decodes what it reads exactly (`libsndfile.py` says what that is), and FFmpeg
the rest (`pyav.py`): WebM, M4A, AAC, AMR, CAF, SPHERE, and headers that are damaged or
were never finished. Both have lists of what they may decode, and lengths are counted in
decoded samples.
"""

import contextlib
import io
import pathlib
import stat
from collections.abc import Iterator

import numpy as np
import soxr
from jaxtyping import Float32, Int16

from data_pipeline import libsndfile, pyav
from data_pipeline.audio_limits import DEFAULT_LIMITS, AudioError, Limits
from data_pipeline.libsndfile import HandOver, Part

__all__ = ['AudioError', 'Limits', 'SAMPLE_RATE', 'SUFFIXES', 'from_pcm']
__all__ += ['is_named_as_audio', 'read', 'read_excerpt']

SAMPLE_RATE = 16_000
# Of files that are decoded; folders are searched for them.
SUFFIXES = (
  *('.3gp', '.aac', '.aif', '.aiff', '.amr', '.au', '.caf', '.flac', '.m4a', '.mka'),
  *('.mp3', '.mp4', '.oga', '.ogg', '.opus', '.rf64', '.sph', '.w64', '.wav', '.webm'),
)

_ROUNDING_SECONDS = 0.1  # by which rounded times may exceed the length of a file
_HEADER_BYTES = 4_096  # a larger file was meant to have sound


def is_named_as_audio(path: str | pathlib.Path) -> bool:
  """Return whether a path ends in one of SUFFIXES, in letters of any case."""
  return str(path).lower().endswith(SUFFIXES)


def read(
  source: str | pathlib.Path | bytes,
  *,
  limits: Limits = DEFAULT_LIMITS,
  name: str = '',
  span: tuple[int, int] | None = None,
  stretch: tuple[float, float] | None = None,
) -> Float32[np.ndarray, 'samples']:
  """Decode an audio file to 16 kHz mono; AudioError if it cannot be used.

  Args:
    source: a path, or the encoded bytes.
    limits: on its size and content.
    name: of the file in errors; the path by default.
    span: offset and size in bytes of the audio within the file at a path.
    stretch: start and length in seconds of the segment to return; all by default. The
      rest of the file is neither read nor decoded, where its format allows that.
  """
  name = name or ('audio' if isinstance(source, bytes) else str(source))
  part = Part(stretch[1], stretch[0]) if stretch else None
  with _open(source, name, limits, span) as (file, size):
    samples, rate = _decode(file, size, name, limits, part)
  if part and len(samples) < (part.seconds - _ROUNDING_SECONDS) * rate:
    missing = part.seconds - len(samples) / rate
    place = f'{part.seconds:g} s from {part.start:g} s'
    raise AudioError(name, 'duration', f'is {missing:.3f} s too short for {place}')
  return _resample(samples, rate, name, limits)


def read_excerpt(
  path: str | pathlib.Path,
  seconds: float,
  position: float,
  limits: Limits = DEFAULT_LIMITS,
) -> Float32[np.ndarray, 'samples']:
  """Decode `seconds` somewhere in a file, or all of a shorter one; as `read` does.

  position: of the excerpt, from 0 for the first to 1 for the last.
  """
  name = str(path)
  part = Part(seconds, position=position)
  with _open(path, name, limits, None) as (file, size):
    samples, rate = _decode(file, size, name, limits, part)
  return _resample(samples, rate, name, limits)


def from_pcm(
  samples: Int16[np.ndarray, 'n'], rate: int, name: str, limits: Limits = DEFAULT_LIMITS
) -> Float32[np.ndarray, 'samples']:
  """Convert mono 16-bit samples to 16 kHz; AudioError as for `read`."""
  limits.check_rate(rate, name)
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


@contextlib.contextmanager
def _open(
  source: str | pathlib.Path | bytes,
  name: str,
  limits: Limits,
  span: tuple[int, int] | None,
) -> Iterator[tuple[io.BufferedIOBase, int]]:
  """Open a file, or a span of it; yields its size in bytes as well."""
  try:
    if isinstance(source, bytes):
      file, size = io.BytesIO(source), len(source)
    else:
      # A pipe or a device may be endless, and opening one may wait.
      if not stat.S_ISREG((status := pathlib.Path(source).stat()).st_mode):
        raise AudioError(name, 'file', 'is not a regular file')
      file, size = pathlib.Path(source).open('rb'), status.st_size
  except OSError as error:
    raise AudioError(name, 'file', f'cannot be read ({error.strerror})') from None
  with file:
    stated = span[1] if span else size
    if stated > limits.encoded_bytes:
      problem = f'is over the limit of {limits.encoded_bytes} bytes'
      raise AudioError(name, 'size', problem)
    if span:
      file.seek(span[0])
      file = io.BytesIO(file.read(stated))
      size = len(file.getbuffer())
    if size < stated:
      raise AudioError(name, 'content', f'is truncated: {size} of {stated} bytes')
    if not size:
      raise AudioError(name, 'content', 'is empty (0 bytes)')
    yield file, size


def _decode(
  file: io.BufferedIOBase, size: int, name: str, limits: Limits, part: Part | None
) -> tuple[Float32[np.ndarray, 'samples'], int]:
  """Return the samples, mixed to mono, and their rate."""
  try:
    try:
      samples, rate = libsndfile.decode(file, size, name, limits, part)
    except HandOver as reason:
      samples, rate = pyav.decode(file, name, limits, part, reason)
      if part is None and not len(samples) and size > _HEADER_BYTES:
        problem = f'has no samples that can be found: {reason}; record it again'
        raise AudioError(name, 'content', problem) from None
  except OSError as error:
    raise AudioError(name, 'file', f'cannot be read ({error.strerror})') from None
  return samples, rate
