# SPDX-License-Identifier: Apache-2.0
"""The microphone and the loudspeaker of this computer, by the optional sounddevice."""

import asyncio
import importlib
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from acl_jax.hearing.hearing import MAX_SECONDS
from acl_jax.runtime.files import write_atomically
from acl_jax.serving.sentences import split_sentences, take_until_none
from acl_jax.serving.voice import Voice, encode
from data_pipeline import audio


def open_sounddevice() -> Any:
  """Return the module; OSError if it or its library is not installed."""
  try:
    return importlib.import_module('sounddevice')
  except ImportError:
    raise OSError(
      "sounddevice is not installed: pip install 'acl_jax[microphone]'"
    ) from None
  except OSError as error:  # the wheel for Linux does not bring PortAudio
    raise OSError(
      f'sounddevice cannot be used ({error}); on Debian install libportaudio2'
    ) from None


def record(wait: Callable[[], object]) -> Float32[np.ndarray, 'samples']:
  """Record from the default microphone until `wait()` returns.

  Returns 16 kHz, as `audio.read` does; what is too long to be heard is left out.
  OSError if there is no microphone.
  """
  sounddevice = open_sounddevice()
  blocks, num_samples = [], 0

  def keep(block, frames, time, status):
    nonlocal num_samples
    del time, status
    if num_samples + frames <= MAX_SECONDS * rate:
      num_samples += frames
      blocks.append(block[:, 0].copy())  # the buffer is used again

  try:
    rate = int(sounddevice.query_devices(kind='input')['default_samplerate'])
    with sounddevice.InputStream(
      samplerate=rate, channels=1, dtype='int16', callback=keep
    ):
      wait()
  except sounddevice.PortAudioError as error:
    raise OSError(f'the microphone cannot be used ({error})') from None
  samples = np.concatenate(blocks) if blocks else np.zeros(0, np.int16)
  return audio.from_pcm(samples, rate, 'the recording')


class Speaker:
  """Speaks replies while they are written: into a wav file, and aloud if possible.

  A context manager. The voice and the loudspeaker run in a thread of their own. Each
  reply replaces the file of the one before it.
  """

  def __init__(self, voice: Voice, path: Path):
    self._voice, self._path = voice, path
    self._stream = _open_loudspeaker(voice.rate)
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

  def __enter__(self) -> 'Speaker':
    self._thread.start()
    try:
      self._run(self._voice.start()).result()
    except BaseException:
      self._stop()
      raise
    return self

  def __exit__(self, *_: object) -> None:
    self._run(self._voice.close()).result()
    self._stop()

  def follow(self, pieces: Iterator[str]) -> Iterator[str]:
    """Yield the pieces of a reply and speak them; returns when all has been heard.

    VoiceError after the last piece if the voice fails; OSError if the file does.
    """
    written: asyncio.Queue[str | None] = asyncio.Queue()
    speaking = self._run(self._speak(written))
    try:
      for piece in pieces:
        self._loop.call_soon_threadsafe(written.put_nowait, piece)
        yield piece
      self._loop.call_soon_threadsafe(written.put_nowait, None)
      sound = encode(speaking.result(), self._voice.rate, 'wav')
    finally:
      speaking.cancel()
    write_atomically(self._path, sound)

  async def _speak(self, written: asyncio.Queue[str | None]) -> bytes:
    """Speak what is written until None; return its PCM."""
    spoken: asyncio.Queue[bytes] = asyncio.Queue()
    playing = asyncio.create_task(self._play(spoken))
    pcm = bytearray()
    try:
      async for sentence in split_sentences(take_until_none(written)):
        async for piece in self._voice.speak(sentence):
          pcm += piece
          spoken.put_nowait(piece)
      spoken.put_nowait(b'')
      await playing
    finally:
      playing.cancel()
    return bytes(pcm)

  async def _play(self, spoken: asyncio.Queue[bytes]) -> None:
    """Play what is spoken until b''; meanwhile the next sentence is synthesised."""
    while piece := await spoken.get():
      if self._stream is not None:
        await asyncio.to_thread(self._stream.write, piece)
    if self._stream is not None:  # what is still in its buffer
      await asyncio.sleep(self._stream.latency)

  def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
    return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

  def _stop(self) -> None:
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()
    if self._stream is not None:
      self._stream.close()


def _open_loudspeaker(rate: int) -> Any:
  """Return a started stream of 16-bit samples; None, and print why, without one."""
  try:
    sounddevice = open_sounddevice()
  except OSError as error:
    print(f'The reply is not played: {error}', file=sys.stderr)
    return None
  try:
    stream = sounddevice.RawOutputStream(samplerate=rate, channels=1, dtype='int16')
    stream.start()
  except sounddevice.PortAudioError as error:
    print(f'The reply is not played: {error}', file=sys.stderr)
    return None
  return stream
