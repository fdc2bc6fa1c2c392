# SPDX-License-Identifier: Apache-2.0
"""The voice of the server: text to 24 kHz PCM by a program in its own process."""

import asyncio
import dataclasses
import io
import re
import unicodedata
from collections.abc import AsyncIterator

import numpy as np
import soundfile
import soxr

from acl_jax.serving.sentences import (
  MAX_CHARACTERS,
  SentenceSplitter,
  split_sentences,
)
from acl_jax.serving.voice_programs import (
  Piper,
  SentenceCommand,
  Sound,
  VoiceError,
  VoiceProgram,
)

__all__ = ['FORMATS', 'Voice', 'VoiceError', 'encode', 'split_sentences']

NO_VOICE = 'none'
MAX_TEXT = 4_096  # characters of one speak(), as in OpenAI's API
MAX_WAITING = 256  # sentences
RATE = 24_000
_PIECE_BYTES = 2 * RATE // 5  # 0.2 s

# Media types of the formats of `encode`.
FORMATS = {
  'wav': 'audio/wav',
  'mp3': 'audio/mpeg',
  'flac': 'audio/flac',
  'opus': 'audio/ogg',
  'pcm16': 'audio/pcm',
}
_CONTAINERS = {
  'wav': dict(format='WAV', subtype='PCM_16'),
  'mp3': dict(format='MP3'),
  'flac': dict(format='FLAC'),
  'opus': dict(format='OGG', subtype='OPUS'),
}
# Markup that engines would read out: emphasis, code, headings, bullets.
_MARKUP = re.compile(
  r'\*{2,}|_{2,}|`+|^\s*(?:#+|[*+\-\u2022])\s+|^[*_]|(?<=\s)[*_](?=\w)'
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
  sentence: str
  sound: asyncio.Future[bytes]


class Voice:
  """A voice; what several speakers say at once is spoken sentence by sentence in turn.

  command: '' for piper with the embedded voice, in one long-living process; otherwise a
    program that reads a line of text and writes a wav file to its standard output, run
    per sentence, such as 'espeak-ng --stdout'.
  """

  rate = RATE

  def __init__(self, command: str = ''):
    self._program: VoiceProgram = SentenceCommand(command) if command else Piper()
    self._waiting: asyncio.Queue[_Job] = asyncio.Queue(MAX_WAITING)
    self._worker: asyncio.Task[None] | None = None

  async def start(self) -> None:
    """Start the program and let it speak once; VoiceError if it cannot."""
    try:
      await self._program.start()
    except BaseException:
      await self._program.close()
      raise
    self._worker = asyncio.create_task(self._work())

  async def close(self) -> None:
    """End the program; what waits to be spoken fails with VoiceError."""
    worker, self._worker = self._worker, None
    if worker is not None:
      worker.cancel()
      await asyncio.wait([worker])
    while not self._waiting.empty():
      _finish(self._waiting.get_nowait(), VoiceError('the voice is closed'))
    await self._program.close()

  async def speak(self, text: str) -> AsyncIterator[bytes]:
    """Yield the PCM of a text, 16-bit mono at `rate`, in pieces of at most 0.2 s.

    A text without letters or digits has no sound. Leaving the loop early stops it.

    Raises:
      VoiceError: the text has more than MAX_TEXT characters, the program failed on it,
        or the voice is not running.
    """
    if len(text) > MAX_TEXT:
      raise VoiceError(f'the text has {len(text)} characters, limit {MAX_TEXT}')
    # A piece of `split_sentences` is spoken as a whole.
    splitter = SentenceSplitter(starts_early=len(text) > MAX_CHARACTERS)
    sentences = [*splitter.push(_without_control(text)), *splitter.finish()]
    for sentence in map(_to_line, sentences):
      if any(map(str.isalnum, sentence)):
        pcm = await self._speak_sentence(sentence)
        for start in range(0, len(pcm), _PIECE_BYTES):
          yield pcm[start : start + _PIECE_BYTES]

  async def _speak_sentence(self, sentence: str) -> bytes:
    if self._worker is None:
      raise VoiceError('the voice is not running')
    sound = asyncio.get_running_loop().create_future()
    try:
      self._waiting.put_nowait(_Job(sentence, sound))
    except asyncio.QueueFull:
      raise VoiceError(f'{MAX_WAITING} sentences are waiting to be spoken') from None
    return await sound

  async def _work(self) -> None:
    """Speak what waits. A job that was cancelled in the meantime is left out.

    The program finishes its sentence even if nobody waits for it any more.
    """
    while True:
      job = await self._waiting.get()
      if job.sound.cancelled():
        continue
      try:
        sound = await self._program.synthesize(job.sentence)
        _finish(job, await asyncio.to_thread(_to_pcm, sound))
      except asyncio.CancelledError:
        _finish(job, VoiceError('the voice is closed'))
        raise
      except VoiceError as error:
        _finish(job, error)
      except Exception as error:  # a bug must not end the voice for all
        _finish(job, error)


def make_voice(command: str) -> Voice | None:
  """Return the voice of `voice.command`; None for 'none'."""
  return None if command == NO_VOICE else Voice(command)


def encode(pcm: bytes, rate: int, format: str) -> bytes:
  """Encode 16-bit mono PCM as one of FORMATS; ValueError if it is another."""
  if format == 'pcm16':
    return pcm
  if format not in _CONTAINERS:
    known = ', '.join(FORMATS)
    raise ValueError(f'audio format {format!r} is not one of {known}')
  file, samples = io.BytesIO(), np.frombuffer(pcm, '<i2')
  with soundfile.SoundFile(file, 'w', rate, 1, **_CONTAINERS[format]) as output:
    for start in range(0, len(samples), rate):  # libsndfile overflows on long blocks
      output.write(samples[start : start + rate])
  return file.getvalue()


def _finish(job: _Job, result: bytes | Exception) -> None:
  """Hand over a result, unless its speaker has gone."""
  if job.sound.done():
    return
  if isinstance(result, Exception):
    job.sound.set_exception(result)
  else:
    job.sound.set_result(result)


def _to_pcm(sound: Sound) -> bytes:
  samples, rate = sound
  if rate != RATE:
    samples = soxr.resample(samples, rate, RATE)
  return np.clip(np.rint(samples * 32768), -32768, 32767).astype('<i2').tobytes()


def _without_control(text: str) -> str:
  """Replace control and unassigned characters, except for line breaks."""
  return ''.join(
    c if c == '\n' or unicodedata.category(c)[0] != 'C' else ' ' for c in text
  )


def _to_line(sentence: str) -> str:
  """Return a sentence on one line without markup."""
  return ' '.join(_MARKUP.sub('', sentence).split())
