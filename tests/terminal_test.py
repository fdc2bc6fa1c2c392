# SPDX-License-Identifier: Apache-2.0
"""A conversation in the terminal: commands, recordings and spoken replies."""

import contextlib
import io
import json
import sys
import time
import types

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from acl_jax import audio_devices
from acl_jax.audio_devices import Speaker, record
from acl_jax.completion import complete
from acl_jax.conversation import Clip
from acl_jax.serving.voice import Voice, VoiceError
from acl_jax.terminal import Terminal, parse_turn
from acl_jax.text.templates import Audio, Turn
from data_pipeline.audio import AudioError


class Conversation:
  """Replies with the number of the turn and what it was given."""

  def __init__(self):
    self.turns, self.num_clips = [], 0

  def stream(self, content, max_new_tokens):
    parts = []
    for part in content:
      if isinstance(part, Clip):
        if str(part.source) == 'missing.wav':
          raise FileNotFoundError('missing.wav: no such file')
        part, self.num_clips = Audio(self.num_clips), self.num_clips + 1
      parts.append(part)
    reply = f'Reply {len(self.turns)}. {max_new_tokens} tokens.'
    for word in reply.split():
      yield word + ' '
    self.turns += [Turn('user', tuple(parts)), Turn('assistant', reply)]


class Program:
  """A voice without a process: 0.1 s for each sentence."""

  def __init__(self):
    self.sentences = []

  async def start(self):
    pass

  async def synthesize(self, sentence):
    if 'Reply 4' in sentence:
      raise VoiceError('no sound')
    self.sentences.append(sentence)
    return np.full(2_400, 0.5, np.float32), 24_000

  async def close(self):
    pass


class PortAudioError(Exception):
  pass


class InputStream:
  """A microphone that has recorded 0.3 s of stereo noise when it is entered."""

  def __init__(self, samplerate, channels, dtype, callback):
    assert (channels, dtype) == (1, 'int16')
    self.samplerate, self.callback = samplerate, callback

  def __enter__(self):
    block = np.empty((self.samplerate // 10, 1), np.int16)
    for value in (100, 200, 300):
      block[:] = value
      self.callback(block, len(block), None, None)

  def __exit__(self, *_):
    pass


class OutputStream:
  """A loudspeaker that remembers what it has played."""

  played, latency = b'', 0.01

  def __init__(self, samplerate, channels, dtype):
    assert (samplerate, channels, dtype) == (24_000, 1, 'int16')

  def start(self):
    OutputStream.played = b''

  def write(self, data):
    OutputStream.played += data

  def close(self):
    pass


@pytest.fixture
def sounddevice(monkeypatch):
  module = types.ModuleType('sounddevice')
  module.PortAudioError = PortAudioError
  module.query_devices = lambda kind: {'default_samplerate': 48_000.0}
  module.InputStream, module.RawOutputStream = InputStream, OutputStream
  monkeypatch.setitem(sys.modules, 'sounddevice', module)
  return module


@pytest.fixture
def no_sounddevice(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sounddevice', None)


@pytest.fixture
def speak(tmp_path):
  """A speaker that writes reply.wav."""

  @contextlib.contextmanager
  def start():
    voice = Voice()
    voice._program = Program()
    with Speaker(voice, tmp_path / 'reply.wav') as speaker:
      yield speaker

  return start


def converse(monkeypatch, *lines, **options) -> Terminal:
  """Type lines, then end the input."""
  remaining = iter(lines)

  def read_line(prompt):
    try:
      return next(remaining)
    except StopIteration:
      raise EOFError from None

  monkeypatch.setattr('builtins.input', read_line)
  terminal = Terminal(Conversation, **options, max_new_tokens=7)
  terminal.converse()
  return terminal


def test_an_at_sign_alone_is_no_turn(capsys, monkeypatch):
  typed = iter(['@', 'meet me @ noon'])

  def read_line(prompt):
    if (line := next(typed, None)) is None:
      raise EOFError
    return line

  monkeypatch.setattr('builtins.input', read_line)
  terminal = Terminal(Conversation, max_new_tokens=7)
  terminal.converse()
  assert 'error: name an audio file behind the @' in capsys.readouterr().err
  assert terminal.conversation.turns[0] == Turn('user', ('meet me @ noon',))


def test_typed_lines_are_text_and_clips():
  assert parse_turn('one two @a.wav  three @b.wav') == [
    'one two',
    Clip('a.wav'),
    'three',
    Clip('b.wav'),
  ]
  assert parse_turn('   ') == []


def test_names_of_files_may_have_spaces(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('my file.wav', 'recording', 'b.wav'):
    (tmp_path / name).write_bytes(b'')
  expected = ['Is', Clip('my file.wav'), 'it?']
  assert parse_turn('Is @"my file.wav" it?') == expected
  assert parse_turn("Is @'my file.wav' it?") == expected
  assert parse_turn(r'Is @my\ file.wav it?') == expected
  assert parse_turn('@recording') == [Clip('recording')]
  assert parse_turn('@"no file"') == [Clip('no file')]  # reported when it is read


@pytest.mark.parametrize(
  'text', ['Ask @nobody about it', 'me@home.org', 'at @ noon', 'say "@a.wav"', '@"']
)
def test_what_names_no_file_is_text(text):
  assert parse_turn(text) == [text]


@given(st.lists(st.from_regex(r'[\w."@ ]{0,9}', fullmatch=True)))
def test_text_is_kept_word_by_word(words):
  line = ' '.join(words)
  try:
    content = parse_turn(line)
  except ValueError:
    assert line.split() == ['@']
    return
  if all(isinstance(part, str) for part in content):
    assert ' '.join(content).split() == line.split()


def test_tab_completes_names_of_files(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'my talks').mkdir()
  for name in ('my file.wav', 'mine.wav', 'my talks/a.wav'):
    (tmp_path / name).write_bytes(b'')
  all_names = ['@mine.wav', '@"my file.wav"', '@"my talks/']
  assert complete('What is @m') == [f'What is {name}' for name in all_names]
  assert complete(r'@my\ f') == complete('@"my f') == ['@"my file.wav"']
  assert complete('@"my talks/') == ['@"my talks/a.wav"']
  assert complete('my') == complete('@"my file.wav" and m') == complete('a@m') == []
  for name in complete('@m')[:2]:
    assert parse_turn(name) == [Clip(name[1:].strip('"'))]


@pytest.mark.parametrize('encoding', ['utf-8', 'ascii'])
@pytest.mark.parametrize('refused', [b'Where is \xe9?', b'missing.wav @missing.wav'])
def test_a_refused_line_leaves_nothing_behind(monkeypatch, capfd, encoding, refused):
  """Whatever the locale makes of bytes that are not UTF-8."""
  typed = io.BytesIO(refused + b'\nWhat is the capital of France?\n')
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(typed, encoding=encoding))
  terminal = Terminal(Conversation, max_new_tokens=7)
  terminal.converse()
  output = capfd.readouterr()
  assert terminal.conversation.turns[0].content == ('What is the capital of France?',)
  assert output.out == 'Reply 0. 7 tokens. \n'
  assert output.err.count('error: ') == 1 and output.err.count('you> ') == 3


def test_an_error_ends_a_turn_not_the_conversation(monkeypatch, capsys):
  terminal = converse(monkeypatch, '', '@missing.wav what', '@a.wav yes', 'no', '/save')
  output = capsys.readouterr()
  assert output.out.split() == 'Reply 0. 7 tokens. Reply 2. 7 tokens.'.split()
  assert 'missing.wav' in output.err and '/save FILE' in output.err
  assert len(terminal.conversation.turns) == 4


def test_a_conversation_is_saved_and_started_again(monkeypatch, tmp_path, sounddevice):
  first, second = tmp_path / 'first one.jsonl', tmp_path / 'second.jsonl'
  converse(
    monkeypatch,
    '@a.wav yes @b.wav',
    '@missing.wav',
    f'/save {first}',
    '/new',
    '',  # records
    '',  # ends the recording
    'no',
    f'/save {second}',
    has_microphone=True,
  )
  turns = [json.loads(line) for line in first.read_text().splitlines()]
  assert turns == [
    {'role': 'user', 'content': '@a.wav yes @b.wav'},
    {'role': 'assistant', 'content': 'Reply 0. 7 tokens.'},
  ]
  turns = [json.loads(line)['content'] for line in second.read_text().splitlines()]
  recording = tmp_path / 'second-0.wav'
  assert turns == [f'@{recording}', 'Reply 0. 7 tokens.', 'no', 'Reply 2. 7 tokens.']
  assert soundfile.info(recording).duration == pytest.approx(0.3)


def test_a_recording_is_resampled_and_limited(sounddevice, monkeypatch):
  samples = record(lambda: None)
  assert len(samples) == 4_800
  np.testing.assert_allclose(samples[2_000:2_800], 200 / 32768, atol=1e-4)
  monkeypatch.setattr(audio_devices, 'MAX_SECONDS', 0.25)
  assert len(record(lambda: None)) == 3_200
  monkeypatch.setattr(audio_devices, 'MAX_SECONDS', 0.0)
  with pytest.raises(AudioError, match=r'the recording.*0\.000 s'):
    record(lambda: None)


def test_without_a_microphone_one_sentence_says_why(sounddevice, monkeypatch):
  def query_devices(kind):
    raise PortAudioError('no device')

  sounddevice.query_devices = query_devices
  with pytest.raises(OSError, match='the microphone cannot be used .no device'):
    record(lambda: None)
  monkeypatch.setitem(sys.modules, 'sounddevice', None)
  with pytest.raises(OSError, match=r'pip install .acl_jax\[microphone\]'):
    record(lambda: None)


def test_a_reply_is_played_while_it_is_generated(sounddevice, speak, tmp_path):
  played = []

  def pieces():
    yield 'One. Tw'
    deadline = time.monotonic() + 20
    while not OutputStream.played and time.monotonic() < deadline:
      time.sleep(0.01)
    played.append(len(OutputStream.played))
    yield 'o. Three'

  with speak() as speaker:
    assert ''.join(speaker.follow(pieces())) == 'One. Two. Three'
    assert speaker._voice._program.sentences == ['One.', 'Two.', 'Three']
  samples, rate = soundfile.read(tmp_path / 'reply.wav', dtype='int16')
  assert rate == 24_000 and len(samples) == 3 * 2_400
  assert played == [2 * 2_400] and OutputStream.played == samples.tobytes()


def test_without_a_loudspeaker_the_reply_is_written(
  no_sounddevice, speak, monkeypatch, tmp_path, capsys
):
  with speak() as speaker:
    terminal = converse(monkeypatch, 'a', 'b', 'c', 'd', speaker=speaker)
  output = capsys.readouterr()
  assert len(terminal.conversation.turns) == 8 and 'Reply 6.' in output.out
  assert 'not played: sounddevice is not installed' in output.err
  assert 'error: no sound' in output.err  # the third reply
  assert soundfile.info(tmp_path / 'reply.wav').frames == 2 * 2_400


def test_an_abandoned_reply_is_not_spoken_to_the_end(no_sounddevice, speak, tmp_path):
  with speak() as speaker:
    reply = speaker.follow(iter(['One. ', 'Two. ', 'Three.']))
    next(reply)
    reply.close()
    assert list(speaker.follow(iter(['Four.']))) == ['Four.']
    assert 'Three.' not in speaker._voice._program.sentences
  assert soundfile.info(tmp_path / 'reply.wav').frames == 2_400


def test_a_voice_that_cannot_start_ends_the_thread(no_sounddevice, tmp_path):
  async def fail():
    raise VoiceError('no model')

  voice = Voice()
  voice._program = Program()
  voice._program.start = fail
  speaker = Speaker(voice, tmp_path / 'reply.wav')
  with pytest.raises(VoiceError, match='no model'):
    speaker.__enter__()
  assert not speaker._thread.is_alive()
  assert speaker._loop.is_closed()
