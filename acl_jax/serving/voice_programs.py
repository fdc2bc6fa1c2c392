# SPDX-License-Identifier: Apache-2.0
"""Text-to-speech programs, in processes of their own: piper, or any command.

piper is GPL, so it is run as a program and never imported. Its raw output does not say
where the sound of a line ends; with --output-dir it writes a wav file per line and logs
its path when the file is complete, so one process speaks all sentences.
"""

import asyncio
import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
from jaxtyping import Float32

from acl_jax import assets

SECONDS_PER_SENTENCE = 60.0  # a program that takes longer is killed
_SECONDS_TO_END = 5.0
MAX_BYTES = 64 << 20  # of the wav file of a sentence
_MIN_RATE, _MAX_RATE = 4_000, 192_000
_WROTE = re.compile(rb'Wrote .*?([0-9]+\.wav)\s*$')  # piper's log
# To piper, [[...]] are phonemes.
_NO_PHONEMES = str.maketrans('[]', '()')

Sound = tuple[Float32[np.ndarray, ' samples'], int]  # mono, and its rate


class VoiceError(OSError):
  """The voice cannot speak; the message says why."""


class VoiceProgram(Protocol):
  """Turns a sentence into sound; sentences come one after another."""

  async def start(self) -> None: ...

  async def synthesize(self, sentence: str) -> Sound: ...

  async def close(self) -> None: ...


class Piper:
  """piper with the embedded voice; a process that dies is started again."""

  def __init__(self):
    self._process: asyncio.subprocess.Process | None = None
    self._folder: Path | None = None
    self._command: list[str] = []

  async def start(self) -> None:
    """Start the process and let it speak once, so that its model is loaded."""
    folder = self._folder = Path(tempfile.mkdtemp(prefix='acl_jax-voice-'))
    self._command = await asyncio.to_thread(piper_command, folder)
    await self.synthesize('Ready.')

  async def synthesize(self, sentence: str) -> Sound:
    """Speak a sentence of one line."""
    if self._process is None or self._process.returncode is not None:
      self._process = await _spawn(self._command, stderr=asyncio.subprocess.PIPE)
    try:
      async with asyncio.timeout(SECONDS_PER_SENTENCE):
        path = await self._write_wav(self._process, sentence)
      return await asyncio.to_thread(_take_wav, path)
    except TimeoutError:
      await self._restart()
      seconds = f'{SECONDS_PER_SENTENCE:g}'
      raise VoiceError(f'piper took more than {seconds} s for a sentence') from None
    except VoiceError:
      await self._restart()
      raise

  async def close(self) -> None:
    """End the process and remove its files."""
    if self._process is not None:
      await _kill(self._process)
    if self._folder is not None:
      shutil.rmtree(self._folder, ignore_errors=True)
    self._process = self._folder = None

  async def _write_wav(
    self, process: asyncio.subprocess.Process, sentence: str
  ) -> Path:
    """Return the file that the process writes; VoiceError if it dies."""
    assert process.stdin and process.stderr and self._folder
    with contextlib.suppress(ConnectionError):  # its last words are more telling
      process.stdin.write(sentence.translate(_NO_PHONEMES).encode() + b'\n')
      await process.stdin.drain()
    last = b''
    while line := await _read_line(process.stderr):
      if match := _WROTE.search(line):
        return self._folder / match[1].decode()
      last = line.strip() or last
    reason = last[-200:].decode(errors='replace') or 'no message'
    code = await process.wait()
    raise VoiceError(f'piper ended with code {code} while it spoke ({reason})')

  async def _restart(self) -> None:
    """Start it again at once: the model takes longer to load than a sentence."""
    if self._process is not None:
      await _kill(self._process)
    self._process = await _spawn(self._command, stderr=asyncio.subprocess.PIPE)


class SentenceCommand:
  """A command that reads a line of text and writes a wav file, run per sentence."""

  def __init__(self, command: str):
    self._command = shlex.split(command)
    if not self._command:
      raise ValueError(f'voice.command = {command!r} names no program')

  async def start(self) -> None:
    """Speak once, so that a wrong command is reported now."""
    await self.synthesize('Ready.')

  async def synthesize(self, sentence: str) -> Sound:
    """Speak a sentence of one line."""
    name = self._command[0]
    with tempfile.TemporaryFile() as errors:
      process = await _spawn(
        self._command, stdout=asyncio.subprocess.PIPE, stderr=errors
      )
      try:
        async with asyncio.timeout(SECONDS_PER_SENTENCE):
          data = await _communicate(process, sentence.encode() + b'\n')
          code = await process.wait()
      except TimeoutError:
        seconds = f'{SECONDS_PER_SENTENCE:g}'
        raise VoiceError(f'{name} took more than {seconds} s for a sentence') from None
      finally:
        await _kill(process)
      if code:
        size = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, size - 200))
        reason = errors.read().decode(errors='replace').strip() or 'no message'
        raise VoiceError(f'{name} ended with code {code} ({reason})')
    return await asyncio.to_thread(_decode_wav, data, name)

  async def close(self) -> None:
    """Do nothing: no process outlives its sentence."""


def piper_command(folder: Path) -> list[str]:
  """Return the command that writes wav files into a folder; may download the voice."""
  if find_spec('piper') is None:
    raise VoiceError("the voice needs piper: pip install 'acl_jax[demo]'")
  # -P: never run a folder named piper in the current directory.
  command = [sys.executable, '-P', '-X', 'utf8', '-m', 'piper', '-d', str(folder)]
  return [*command, '-m', str(assets.resolve('asset:joe-voice'))]


async def _spawn(command: list[str], **streams) -> asyncio.subprocess.Process:
  streams = {'stdout': asyncio.subprocess.DEVNULL, **streams}
  try:
    return await asyncio.create_subprocess_exec(
      *command,
      stdin=asyncio.subprocess.PIPE,
      # Ctrl-C must not end it: answers in flight are still spoken.
      start_new_session=True,
      **streams,
    )
  except OSError as error:
    raise VoiceError(f'{command[0]} cannot be run ({error.strerror})') from None


async def _kill(process: asyncio.subprocess.Process) -> None:
  """End a process and its children."""
  with contextlib.suppress(ProcessLookupError):
    if process.returncode is None:
      os.killpg(process.pid, signal.SIGKILL)
  if process.stdin:
    process.stdin.close()
  with contextlib.suppress(TimeoutError):
    async with asyncio.timeout(
      _SECONDS_TO_END
    ):  # a child of its own may hold a pipe open
      for stream in (process.stdout, process.stderr):
        # asyncio does not see the end of a pipe with unread data, and waits for it.
        while stream and await stream.read(1 << 16):
          pass
      await process.wait()


async def _read_line(stream: asyncio.StreamReader) -> bytes:
  """Return the next line; b'' at the end, and for a line that is too long."""
  try:
    return await stream.readline()
  except ValueError:
    return b''


async def _communicate(process: asyncio.subprocess.Process, data: bytes) -> bytes:
  """Write all input, return all output; VoiceError if that is over MAX_BYTES."""
  assert process.stdin and process.stdout
  with contextlib.suppress(ConnectionError):  # it may not read its input
    process.stdin.write(data)
    await process.stdin.drain()
  process.stdin.close()
  output = bytearray()
  while chunk := await process.stdout.read(1 << 16):
    output += chunk
    if len(output) > MAX_BYTES:
      raise VoiceError(f'a sentence has more than {MAX_BYTES} bytes of sound')
  return bytes(output)


def _take_wav(path: Path) -> Sound:
  try:
    if path.stat().st_size > MAX_BYTES:
      raise VoiceError(f'a sentence has more than {MAX_BYTES} bytes of sound')
    return _decode_wav(path.read_bytes(), 'piper')
  finally:
    path.unlink(missing_ok=True)


def _decode_wav(data: bytes, name: str) -> Sound:
  """Return the mono samples of a wav file and their rate; name: of its program."""
  try:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
      rate = file.samplerate
      # The length in the header of a streamed file is wrong: read what is there.
      samples = file.read(len(data), dtype='float32', always_2d=True)
  except soundfile.LibsndfileError:
    raise VoiceError(f'{name} wrote no wav file ({len(data)} bytes)') from None
  if not _MIN_RATE <= rate <= _MAX_RATE:
    raise VoiceError(f'{name} wrote {rate} Hz, limits {_MIN_RATE} and {_MAX_RATE} Hz')
  return samples.mean(axis=1), rate
