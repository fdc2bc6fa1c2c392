# SPDX-License-Identifier: Apache-2.0
"""Voices in processes: killed, stuck, silent or cancelled, and the real ones."""

import asyncio
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from acl_jax.serving import voice_programs
from acl_jax.serving.voice import Voice, VoiceError
from acl_jax.serving.voice_programs import Piper

pytestmark = pytest.mark.full

# Behaves as piper does: reads lines, writes wav files and logs their paths.
FAKE_PIPER = r"""
import sys, time, wave
folder, number = sys.argv[1], 0
for line in sys.stdin:
  if 'crash' in line:
    sys.exit('out of memory')
  if 'slow' in line:
    time.sleep(1)
  if 'hang' in line:
    time.sleep(1_000)
  number += 1
  path = f'{folder}/{number}.wav'
  with wave.open(path, 'wb') as file:
    file.setparams((1, 2, 16_000, 0, 'NONE', ''))
    file.writeframes(len(line.encode()).to_bytes(2, 'little') * 4_000)
  print('a warning', file=sys.stderr)
  print(f'INFO:__main__:Wrote {path}', file=sys.stderr, flush=True)
"""
FAKE_COMMAND = r"""
import sys, wave
line = sys.stdin.readline()
if 'crash' in line:
  sys.exit('no such voice')
if 'junk' in line:
  sys.exit(print('no sound'))
if 'endless' in line:
  while True:
    sys.stdout.buffer.write(bytes(1 << 16))
with wave.open(sys.stdout.buffer, 'wb') as file:
  file.setparams((2, 2, 48_000, 0, 'NONE', ''))
  file.writeframes(bytes(4 * 24_000))
"""


@pytest.fixture
def fake_piper(monkeypatch):
  def command(folder: Path) -> list[str]:
    return [sys.executable, '-c', FAKE_PIPER, str(folder)]

  monkeypatch.setattr(voice_programs, 'piper_command', command)


async def speak(voice: Voice, text: str) -> bytes:
  return b''.join([piece async for piece in voice.speak(text)])


def run(test, command=''):
  """Run `test(voice)` with a voice that is started and closed."""

  async def main():
    voice = Voice(command)
    await voice.start()
    try:
      async with asyncio.timeout(60):
        await test(voice)
    finally:
      await voice.close()

  asyncio.run(main())


def program(voice: Voice) -> Piper:
  assert isinstance(voice._program, Piper)
  return voice._program


def process_id(voice: Voice) -> int:
  process = program(voice)._process
  assert process
  return process.pid


def loudness(pcm: bytes) -> int:
  """Return what the fake writes: the length of the line in bytes."""
  return round(float(np.median(np.frombuffer(pcm, np.int16))))


def test_one_process_speaks_all_sentences_and_leaves_nothing(fake_piper):
  left = []

  async def test(voice):
    pid, folder = process_id(voice), program(voice)._folder
    for text in ('Hello.', 'Good morning [[x]].', '\u00e9t\u00e9.'):
      assert loudness(await speak(voice, text)) == len(text.encode()) + 1
    assert process_id(voice) == pid
    assert folder and not list(folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700
    left.extend([folder, Path(f'/proc/{pid}')])

  run(test)
  assert not any(path.exists() for path in left)


def test_a_process_killed_in_a_sentence_is_started_again(fake_piper):
  async def test(voice):
    pid = process_id(voice)
    task = asyncio.create_task(speak(voice, 'A slow one.'))
    await asyncio.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(VoiceError, match='piper ended with code -9'):
      await task
    assert loudness(await speak(voice, 'Hello.')) == 7
    assert process_id(voice) != pid

  run(test)


def test_a_process_killed_between_sentences_costs_none(fake_piper):
  async def test(voice):
    os.kill(process_id(voice), signal.SIGKILL)
    await asyncio.sleep(0.3)
    assert loudness(await speak(voice, 'Hello.')) == 7

  run(test)


def test_the_reason_of_a_crash_is_reported(fake_piper):
  async def test(voice):
    with pytest.raises(VoiceError, match='code 1 .*out of memory'):
      await speak(voice, 'This will crash.')
    assert loudness(await speak(voice, 'Hello.')) == 7

  run(test)


def test_a_process_that_hangs_is_killed(fake_piper, monkeypatch):
  async def test(voice):
    monkeypatch.setattr(voice_programs, 'SECONDS_PER_SENTENCE', 0.5)
    with pytest.raises(VoiceError, match=r'more than 0\.5 s'):
      await speak(voice, 'This will hang.')
    monkeypatch.setattr(voice_programs, 'SECONDS_PER_SENTENCE', 20.0)
    assert loudness(await speak(voice, 'Hello.')) == 7

  run(test)


def test_the_sound_of_a_cancelled_sentence_is_not_the_next_ones(fake_piper):
  async def test(voice):
    pid = process_id(voice)
    task = asyncio.create_task(speak(voice, 'A slow sentence that nobody hears.'))
    await asyncio.sleep(0.3)
    task.cancel()
    assert loudness(await speak(voice, 'Hello.')) == 7
    assert process_id(voice) == pid

  run(test)


def test_a_voice_that_cannot_start_says_why(monkeypatch):
  command = [sys.executable, '-c', 'raise SystemExit("no model")']
  monkeypatch.setattr(voice_programs, 'piper_command', lambda folder: command)
  for voice, match in (
    (Voice(), 'no model'),
    (Voice('no-such-program-here'), 'no-such-program-here cannot be run'),
  ):
    with pytest.raises(VoiceError, match=match):
      asyncio.run(voice.start())


def test_a_command_speaks_a_sentence(tmp_path, monkeypatch):
  script = tmp_path / 'speak it.py'
  script.write_text(FAKE_COMMAND)
  monkeypatch.setattr(voice_programs, 'MAX_BYTES', 1 << 20)

  async def test(voice):
    assert len(await speak(voice, 'Hello.')) == 2 * 12_000
    for text, match in (
      ('crash.', 'code 1 .no such voice'),
      ('junk.', r'no wav file \(9 bytes\)'),
      ('endless.', 'more than 1048576 bytes'),
    ):
      with pytest.raises(VoiceError, match=match):
        await speak(voice, text)
    assert await speak(voice, 'Hello.')

  run(test, f"{sys.executable} '{script}'")


@pytest.mark.skipif(not shutil.which('espeak-ng'), reason='espeak-ng is not installed')
def test_espeak_speaks():
  async def test(voice):
    assert 0.5 < len(await speak(voice, 'Good morning.')) / 48_000 < 3

  run(test, 'espeak-ng --stdout')


def test_the_embedded_voice_speaks():
  async def test(voice):
    start = time.monotonic()
    pieces, first = [], 0.0
    async for piece in voice.speak('Good morning. How are you today? [[Fine]].'):
      first = first or time.monotonic() - start
      pieces.append(piece)
    samples = np.frombuffer(b''.join(pieces), np.int16)
    assert 1.5 < len(samples) / 24_000 < 6 and np.abs(samples).max() > 3_000
    assert first < time.monotonic() - start
    pid = process_id(voice)
    with pytest.raises(VoiceError, match='piper ended'):
      task = asyncio.create_task(speak(voice, 'A long sentence, ' * 9))
      await asyncio.sleep(0.05)
      os.kill(pid, signal.SIGKILL)
      await task
    assert await speak(voice, 'Good morning.')

  run(test)
