# SPDX-License-Identifier: Apache-2.0
"""Audio that libsndfile decodes; what it cannot read, or reads in part, is handed over.

What its header states is believed only as far as the file supports it:

- Fewer samples than stated: the file is truncated, and refused. A size of 2 GiB or more
  is a placeholder, which writers to a pipe use; the samples end with the file.
- No samples stated, or a WAV of which the larger part follows the stated samples and is
  no chunk: the header was never finished, so the file is handed over.
- An Ogg stream whose last page is cut is truncated. If that page is only not marked as
  the last, the recorder was stopped by force; what libsndfile refuses is handed over.
- An MP3 file without a Xing or VBRI header: libsndfile estimates its length from the
  bit rate of the first frame and drops what exceeds it, so the file is handed over.
"""

import io
import re
import sys
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32

from data_pipeline.audio_limits import AudioError, Limits, Mixer

_PCM = {'PCM_S8', 'PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'}
_CODECS = {
  'WAV': _PCM | {'ULAW', 'ALAW'},
  'WAVEX': _PCM | {'ULAW', 'ALAW'},
  'RF64': _PCM | {'ULAW', 'ALAW'},
  'W64': _PCM | {'ULAW', 'ALAW'},
  'AIFF': _PCM | {'ULAW', 'ALAW'},
  'FLAC': {'PCM_S8', 'PCM_16', 'PCM_24'},
  'OGG': {'VORBIS', 'OPUS'},
  'MP3': {'MPEG_LAYER_III'},
}
# First bytes of these formats: libsndfile knows many more, which it never gets to see.
_MAGIC = (b'RIFF', b'RF64', b'riff', b'FORM', b'fLaC', b'OggS', b'ID3')
_MPEG_SYNC = re.compile(b'\xff[\xe0-\xff]')
PREROLL = 2.0  # seconds before a part; an MP3 frame may need bits of 20 frames before
_BLOCK_SAMPLES = 1 << 18  # decoded at a time, over all channels
_PLACEHOLDER = 0x7FFF_0000  # bytes; writers to a pipe state this size or a larger one
_UNKNOWN_FRAMES = 2**62  # a FLAC of unknown length claims 2**63 - 1
_OGG_PAGE_BYTES = 65_307  # at most
_FIRST_FRAMES = 4_096  # bytes, more than the MP3 frames that are read to open a file

# In libsndfile's log: sizes of the samples, and where the chunks behind them end.
_STATED = re.compile(
  r'^\s*(?:data|SSND|Data size)\s*:\s*(\d+)\b(?: \(should be (\d+)\))?', re.MULTILINE
)
_NO_CHUNK = re.compile(r'Unknown chunk marker \(\w+\) at position (\d+)\.')


class HandOver(Exception):
  """The file is for another decoder; says why, as a sentence about the file.

  ignore_length: whether the length of the samples in its header is wrong.
  """

  def __init__(self, reason: str, ignore_length: bool = False):
    super().__init__(reason)
    self.ignore_length = ignore_length


class Part(NamedTuple):
  """A part of a file, in seconds.

  position: where it starts, from 0 for the first to 1 for the last place; or else at
  `start`.
  """

  seconds: float
  start: float = 0.0
  position: float | None = None

  def start_in(self, total: float) -> float:
    """Return where it starts in a file of `total` seconds."""
    if self.position is None:
      return self.start
    return self.position * max(0.0, total - self.seconds)


class _File:
  """A file in which seeking before the start does nothing, as libsndfile expects."""

  def __init__(self, file: io.BufferedIOBase):
    self._file = file
    self.readinto, self.read, self.tell = file.readinto, file.read, file.tell

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    try:
      return self._file.seek(offset, whence)
    except (OSError, ValueError):
      return self._file.tell()


class _Stream(soundfile.SoundFile):
  """A file that is read sequentially, whatever length its header states.

  The base class seeks to the end of each block that it has read from a seekable file,
  which is inexact for MP3.
  """

  def seekable(self) -> bool:
    return False


def decode(
  file: io.BufferedIOBase, size: int, name: str, limits: Limits, part: Part | None
) -> tuple[Float32[np.ndarray, 'samples'], int]:
  """Return the samples, mixed to mono, and their rate; HandOver or AudioError.

  size: of the file in bytes.
  """
  head = file.read(4)
  if not (head.startswith(_MAGIC) or _MPEG_SYNC.match(head)):
    raise HandOver('its format is not one that libsndfile reads')
  is_ended = head != b'OggS' or _check_last_page(file, size, name)
  file.seek(0)
  try:
    sound = _Stream(_File(file))
  except (soundfile.LibsndfileError, ValueError) as error:
    raise HandOver(f'libsndfile cannot open it ({error})') from None
  with sound:
    if sound.subtype not in _CODECS.get(sound.format, ()):
      raise HandOver(f'its codec is {sound.subtype} in {sound.format}')
    limits.check_rate(sound.samplerate, name)
    limits.check_channels(sound.channels, name)
    _check_stated_length(sound, file, size)
    try:
      mixer = _read(sound, name, limits, part)
    except soundfile.LibsndfileError as error:
      if not is_ended:
        raise HandOver('its Ogg stream has no last page') from None
      raise AudioError(name, 'content', f'cannot be decoded ({error})') from None
    if part is None:
      _check_complete(sound, mixer.frames, size, name)
    return mixer.join(), sound.samplerate


def _check_stated_length(
  sound: soundfile.SoundFile, file: io.BufferedIOBase, size: int
) -> None:
  """Raise HandOver if the length in the header cannot be right."""
  if not sound.frames:
    reason = 'its header states no samples, as if it had never been finished'
    raise HandOver(reason, ignore_length=True)
  if sound.format == 'MP3':
    end = file.tell()
    file.seek(max(0, end - _FIRST_FRAMES))
    first_frames = file.read(end - max(0, end - _FIRST_FRAMES))
    if not any(tag in first_frames for tag in (b'Xing', b'Info', b'VBRI')):
      raise HandOver('it is an MP3 file that does not state its length')
  elif sound.format in ('WAV', 'WAVEX'):
    log = sound.extra_info
    stated, no_chunk = _STATED.search(log), _NO_CHUNK.search(log)
    if stated and no_chunk and size - int(no_chunk[1]) > int(stated[1]):
      reason = f'its header states {stated[1]} bytes of samples, as if never finished'
      raise HandOver(reason, ignore_length=True)


def _read(
  sound: soundfile.SoundFile, name: str, limits: Limits, part: Part | None
) -> Mixer:
  """Decode everything or a part, seeking to where it starts."""
  rate, skip, count = sound.samplerate, 0, sys.maxsize
  if part:
    start = part.start_in(min(sound.frames / rate, limits.seconds))
    skip, count = round(start * rate), round(part.seconds * rate)
    if sound.format != 'MP3':
      sound.seek(min(skip, sound.frames))
      skip = 0
    elif start > PREROLL:
      raise HandOver('libsndfile does not seek exactly in MP3')
  mixer = Mixer(name, limits, rate, sound.channels, skip, count)
  while mixer.missing:
    size = min(_BLOCK_SAMPLES // sound.channels, mixer.missing)
    block = sound.read(size, dtype='float32', always_2d=True)
    if not len(block):
      break
    mixer.append(block)
  return mixer


def _check_complete(
  sound: soundfile.SoundFile, frames: int, size: int, name: str
) -> None:
  """Raise AudioError if the file has less than its header states."""
  if frames < sound.frames < _UNKNOWN_FRAMES:
    problem = f'has only {frames} of {sound.frames} frames'
    raise AudioError(name, 'content', f'is truncated: it {problem}')
  for stated, actual in _STATED.findall(sound.extra_info):
    available = int(actual or size)
    if available < int(stated) < _PLACEHOLDER:
      problem = f'is truncated: {available} of {stated} bytes'
      raise AudioError(name, 'content', problem)


def _check_last_page(file: io.BufferedIOBase, size: int, name: str) -> bool:
  """Return whether the last page of an Ogg stream is marked as the last.

  AudioError if it is cut.
  """
  file.seek(max(0, size - _OGG_PAGE_BYTES))
  tail = file.read()
  page = tail[max(0, tail.rfind(b'OggS')) :]
  segments = page[26] if len(page) > 26 else 255
  if len(page) < 27 + segments + sum(page[27 : 27 + segments]):
    raise AudioError(name, 'content', 'is truncated: its last Ogg page is cut')
  return bool(page[5] & 4)
