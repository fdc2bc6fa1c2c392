# SPDX-License-Identifier: Apache-2.0
"""Audio files to 16 kHz mono float32, within limits that hold while decoding.

Nothing a file says about itself is trusted: codecs are on an allow-list, decided before
the decoding library sees a byte, and lengths are counted as samples arrive.
"""

import dataclasses
import io
import pathlib
import stat
import struct

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from data_pipeline import mp3

SAMPLE_RATE = 16_000

_CODECS = {
  'WAV': {'PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'},
  'WAVEX': {'PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'},
  'FLAC': {'PCM_S8', 'PCM_16', 'PCM_24'},
  'OGG': {'VORBIS', 'OPUS'},
  'MP3': {'MPEG_LAYER_III'},
}
# (format tag, bits per sample) of a WAV file: integer and floating-point PCM.
_WAV_CODECS = {(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)}
_EXTENSIBLE = 0xFFFE
_EXTENSIBLE_GUID = bytes.fromhex('00000000001000800000aa00389b71')[1:]
_UNKNOWN_LENGTH = 0x7FFF_0000  # writers to a pipe put a size from here up
_MP3_SLACK = 2 * 1_152  # a cut last frame, and the decoder's delay
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


class AudioError(ValueError):
  """Audio that cannot be used: `name: field is ..., limit ...`."""

  def __init__(self, name: str, field: str, problem: str):
    super().__init__(f'{name}: {field} {problem}')
    self.field = field


def read(
  source: str | pathlib.Path | bytes,
  *,
  limits: Limits = Limits(),
  name: str = '',
  span: tuple[int, int] | None = None,
) -> Float32[np.ndarray, 'samples']:
  """Decodes WAV, FLAC, Ogg or MP3 to 16 kHz mono; AudioError says what is wrong.

  Args:
    source: a path, or the encoded bytes.
    limits: what the file may cost.
    name: what errors call the file; the path unless given.
    span: of a path, offset and size in bytes, where the file holds other things too.
  """
  name = name or ('audio' if isinstance(source, bytes) else str(source))
  data = source if isinstance(source, bytes) else _load(source, name, limits, span)
  if len(data) > limits.encoded_bytes:
    raise AudioError(name, 'size', f'is over the limit of {limits.encoded_bytes} bytes')
  data = _sniff(data, name)
  try:
    with _Stream(io.BytesIO(data)) as file:
      _check_header(file, name, limits)
      samples = _decode(file, name, limits)
      _check_whole(file, len(samples), data, name)
      rate = file.samplerate
  except soundfile.LibsndfileError as error:
    raise AudioError(name, 'content', f'cannot be decoded ({error})') from None
  if len(samples) < limits.min_seconds * rate:
    seconds = len(samples) / rate
    raise AudioError(
      name, 'duration', f'is {seconds:.3f} s, limit at least {limits.min_seconds} s'
    )
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


def _sniff(data: bytes, name: str) -> bytes:
  """Lets four containers through, freed of what could disguise another."""
  if not data:
    raise AudioError(name, 'content', 'is empty (0 bytes)')
  if data[:3] == b'ID3' and len(data) > 10:
    high, middle, low, last = (byte & 0x7F for byte in data[6:10])
    size = high << 21 | middle << 14 | low << 7 | last
    data = data[10 + size :].lstrip(b'\0')
  if data[:4] == b'RIFF' and data[8:12] == b'WAVE':
    return _canonical_wav(data, name)
  if data[:4] == b'OggS':
    return _complete_ogg(data, name)
  if data[:4] == b'fLaC' or (data[:1] == b'\xff' and data[1:2] >= b'\xe0'):
    return data
  raise AudioError(name, 'content', 'is not WAV, FLAC, Ogg or MP3')


def _canonical_wav(data: bytes, name: str) -> bytes:
  """The same WAV with only the two chunks checked here: nothing else gets parsed."""
  chunks, offset = {}, 12
  while offset + 8 <= len(data) and b'data' not in chunks:
    kind, size = struct.unpack_from('<4sI', data, offset)
    body = data[offset + 8 : offset + 8 + size]
    if len(body) < size and not (kind == b'data' and size >= _UNKNOWN_LENGTH):
      raise AudioError(name, 'content', f'is truncated: {len(body)} of {size} bytes')
    chunks.setdefault(kind, body)
    offset += 8 + size + size % 2
  if b'fmt ' not in chunks or b'data' not in chunks or len(chunks[b'fmt ']) < 16:
    raise AudioError(name, 'content', 'is truncated: no samples in the WAV file')
  format_chunk, samples = chunks[b'fmt '], chunks[b'data']
  tag, channels, rate, _, _, bits = struct.unpack_from('<HHIIHH', format_chunk)
  if tag == _EXTENSIBLE and format_chunk[26:40] == _EXTENSIBLE_GUID:
    tag = struct.unpack_from('<H', format_chunk, 24)[0]
  if (tag, bits) not in _WAV_CODECS:
    raise AudioError(
      name, 'codec', f'is WAV format {tag:#06x} of {bits} bits, limit PCM or float'
    )
  frame = channels * bits // 8 % 2**16  # channels are checked once it is open
  speed = rate * frame % 2**32
  header = struct.pack('<HHIIHH', tag, channels, rate, speed, frame, bits)
  body = b'WAVEfmt ' + struct.pack('<I', 16) + header
  body += b'data' + struct.pack('<I', len(samples)) + samples
  return b'RIFF' + struct.pack('<I', len(body)) + body


def _complete_ogg(data: bytes, name: str) -> bytes:
  """An Ogg stream says on its last page that it ends there."""
  last = data.rfind(b'OggS')
  segments = data[last + 26] if last + 27 <= len(data) else 0
  size = 27 + segments + sum(data[last + 27 : last + 27 + segments])
  if len(data) - last < size or not data[last + 5] & 4:
    raise AudioError(name, 'content', 'is truncated: the Ogg stream has no last page')
  return data


def _check_header(file: soundfile.SoundFile, name: str, limits: Limits) -> None:
  if file.subtype not in _CODECS.get(file.format, ()):
    raise AudioError(
      name, 'codec', f'is {file.subtype} in {file.format}, not supported'
    )
  if not limits.min_rate <= file.samplerate <= limits.max_rate:
    raise AudioError(
      name,
      'sample rate',
      f'is {file.samplerate} Hz, limits {limits.min_rate} and {limits.max_rate} Hz',
    )
  if file.channels > limits.channels:
    raise AudioError(name, 'channels', f'are {file.channels}, limit {limits.channels}')


def _decode(
  file: soundfile.SoundFile, name: str, limits: Limits
) -> Float32[np.ndarray, 'samples']:
  """All samples, mixed to mono, at the file's own rate."""
  max_frames = limits.decoded_bytes // (4 * file.channels)
  blocks, frames = [], 0
  while True:
    block = file.read(_BLOCK // file.channels, dtype='float32', always_2d=True)
    frames += len(block)
    if frames > limits.seconds * file.samplerate:
      raise AudioError(name, 'duration', f'is over the limit of {limits.seconds:g} s')
    if frames > max_frames:
      raise AudioError(
        name, 'decoded size', f'is over the limit of {limits.decoded_bytes} bytes'
      )
    if not len(block):
      break
    peak = np.abs(block).max()
    if not peak <= limits.peak:  # NaN compares false
      raise AudioError(name, 'samples', f'reach {peak}, limit {limits.peak:g}')
    blocks.append(block.mean(axis=1))
  return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def _check_whole(
  file: soundfile.SoundFile, frames: int, data: bytes, name: str
) -> None:
  expected = file.frames
  if file.format == 'MP3' and not mp3.states_its_length(data):
    expected = mp3.count_samples(data) - _MP3_SLACK
  if frames < expected < 2**62:  # a FLAC of unknown length claims 2**63 - 1
    raise AudioError(name, 'content', f'gives only {frames} of {expected} frames')
