# SPDX-License-Identifier: Apache-2.0
"""The voice: its queue, what it reads out, and encoded sound."""

import asyncio
import io

import numpy as np
import pytest
import soundfile

from acl_jax.serving import voice as voice_module
from acl_jax.serving.voice import FORMATS, Voice, VoiceError, encode, make_voice

SAMPLES = 7_000  # of every sentence, at 16 kHz: 10,500 at 24 kHz


class Program:
  """A program without a process: sound as loud as the sentence is long."""

  def __init__(self):
    self.sentences, self.is_closed = [], False
    self.gate = asyncio.Event()
    self.gate.set()

  async def start(self):
    pass

  async def synthesize(self, sentence):
    self.sentences.append(sentence)
    await self.gate.wait()
    if 'fail' in sentence:
      raise VoiceError('no sound')
    if 'bug' in sentence:
      raise KeyError('bug')
    return np.full(SAMPLES, len(sentence) / 100, np.float32), 16_000

  async def close(self):
    self.is_closed = True


def run(test):
  """Run `test(voice, program)` with a voice that is started and closed."""

  async def main():
    voice = Voice()
    program = voice._program = Program()
    await voice.start()
    try:
      async with asyncio.timeout(20):
        await test(voice, program)
    finally:
      await voice.close()
    assert program.is_closed

  asyncio.run(main())


async def speak(voice: Voice, text: str) -> bytes:
  return b''.join([piece async for piece in voice.speak(text)])


def test_sound_is_pcm_of_24_khz_in_short_pieces():
  async def test(voice, program):
    pieces = [piece async for piece in voice.speak('Hello.')]
    assert max(map(len, pieces)) <= 0.2 * 2 * voice.rate and len(pieces) == 3
    samples = np.frombuffer(b''.join(pieces), np.int16)
    assert len(samples) == SAMPLES * 24_000 // 16_000
    np.testing.assert_allclose(samples[500:-500], 0.06 * 32768, atol=30)

  run(test)


def test_texts_are_spoken_sentence_by_sentence_without_markup():
  async def test(voice, program):
    text = (
      '# Title\n\n**Bold\x00** `code`\x1b. * One\n- two\u2028snake_case * 3 \ud800!'
    )
    await speak(voice, text + ' ... *** \U0001f44d')
    assert program.sentences == ['Title', 'Bold code .', 'One', 'two snake_case * 3 !']
    assert await speak(voice, ' ...\n') == b''
    with pytest.raises(VoiceError, match='5000 characters, limit 4096'):
      await speak(voice, 'word ' * 1_000)

  run(test)


def test_a_sentence_is_spoken_as_a_whole_and_a_long_text_starts_early():
  async def test(voice, program):
    sentence = 'This has a comma after fifty or so characters of text, and goes on.'
    await speak(voice, sentence)
    await speak(voice, ' '.join([sentence] * 5))
    assert program.sentences[:2] == [sentence, sentence.partition(' and')[0]]

  run(test)


def test_speakers_take_turns():
  async def test(voice, program):
    await asyncio.gather(
      *(speak(voice, f'{name} one. {name} two. {name} three.') for name in 'XYZ')
    )
    numbers = [sentence.split()[1] for sentence in program.sentences]
    assert numbers == ['one.'] * 3 + ['two.'] * 3 + ['three.'] * 3

  run(test)


def test_a_slow_listener_holds_up_nobody():
  async def test(voice, program):
    slow = voice.speak('One. Two.')
    await anext(slow)
    assert await speak(voice, 'Three.')
    await slow.aclose()
    assert program.sentences == ['One.', 'Three.']

  run(test)


def test_what_is_cancelled_is_not_spoken():
  async def test(voice, program):
    program.gate.clear()
    tasks = [
      asyncio.create_task(speak(voice, f'Say {name} now. More.')) for name in 'xyz'
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks[:2]:  # one is being spoken, the other waits
      task.cancel()
    await asyncio.wait(tasks[:2])
    program.gate.set()
    assert await tasks[2]
    assert program.sentences == ['Say x now.', 'Say z now.', 'More.']

  run(test)


def test_errors_concern_one_sentence():
  async def test(voice, program):
    with pytest.raises(VoiceError, match='no sound'):
      await speak(voice, 'This will fail.')
    with pytest.raises(KeyError):
      await speak(voice, 'This is a bug.')
    assert await speak(voice, 'This works.')

  run(test)


def test_the_queue_is_bounded(monkeypatch):
  monkeypatch.setattr(voice_module, 'MAX_WAITING', 3)

  async def test(voice, program):
    program.gate.clear()
    tasks = [asyncio.create_task(speak(voice, f'Number {i}.')) for i in range(5)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(VoiceError, match='waiting'):
      await done.pop()
    program.gate.set()
    assert sum(isinstance(r, bytes) for r in await asyncio.gather(
      *tasks, return_exceptions=True)) >= 3  # fmt: skip

  run(test)


def test_closing_ends_what_waits():
  async def test(voice, program):
    program.gate.clear()
    tasks = [asyncio.create_task(speak(voice, f'Number {i}.')) for i in range(3)]
    await asyncio.sleep(0.01)
    await voice.close()
    for task in tasks:
      with pytest.raises(VoiceError, match='closed'):
        await task
    with pytest.raises(VoiceError, match='not running'):
      await speak(voice, 'Hello.')

  run(test)


def test_no_voice():
  assert make_voice('none') is None
  assert isinstance(make_voice('espeak-ng --stdout'), Voice)
  with pytest.raises(ValueError, match=r"voice\.command = ' '"):
    make_voice(' ')


@pytest.mark.parametrize('name', FORMATS)
def test_encoded_sound_is_the_sound(name):
  rate = 24_000
  tone = 0.5 * np.sin(np.arange(rate * 11 // 5) * (2 * np.pi * 440 / rate))
  pcm = (tone * 32767).astype('<i2').tobytes()
  data = encode(pcm, rate, name)
  if name == 'pcm16':
    assert data == pcm
    return
  samples, decoded_rate = soundfile.read(io.BytesIO(data), dtype='float32')
  assert decoded_rate == rate and abs(len(samples) - len(tone)) < 0.1 * rate
  spectrum = np.abs(np.fft.rfft(samples[:rate]))
  assert np.argmax(spectrum) == 440
  if name in ('wav', 'flac'):
    np.testing.assert_array_equal(samples * 32768, np.frombuffer(pcm, '<i2'))


def test_sound_may_be_empty_but_not_of_another_format():
  for name in FORMATS:
    encode(b'', 24_000, name)
  with pytest.raises(ValueError, match="'aac'.*wav, mp3, flac, opus, pcm16"):
    encode(b'', 24_000, 'aac')
