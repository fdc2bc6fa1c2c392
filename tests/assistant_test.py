# SPDX-License-Identifier: Apache-2.0
"""The Python interface, and the console script."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

import acl_jax
from acl_jax import build, build_adapter
from acl_jax.assistant import Assistant
from acl_jax.conversation import Clip
from acl_jax.text.templates import Audio, Turn
from acl_jax.weights.adapter import save_adapter
from data_pipeline.audio import AudioError
from tests.tiny_world import load_config

ROOT = Path(__file__).parent.parent
OPTIONS = dict(max_new_tokens=5)


@pytest.fixture(scope='module')
def workdir(tiny_world, tmp_path_factory) -> Path:
  """A workdir with an untrained adapter."""
  config, folder = load_config(tiny_world), tmp_path_factory.mktemp('workdir')
  adapter = build_adapter.new_adapter(config.adapter, 0, 12, 24, range(270, 300), str)
  save_adapter(folder / build.ADAPTER_FILE, adapter)
  return folder


@pytest.fixture(scope='module')
def assistant(tiny_world, workdir) -> Assistant:
  return acl_jax.load(load_config(tiny_world), workdir)


@pytest.fixture(scope='module')
def audio(tiny_world) -> Path:
  return tiny_world / 'corpus/3.flac'


def test_files_and_waveforms_are_answered_alike(assistant, audio):
  samples, rate = soundfile.read(audio, dtype='float32')
  assert rate == 16_000
  answer = assistant.answer(audio, **OPTIONS)
  assert answer == assistant.answer(str(audio), **OPTIONS)
  assert answer == assistant.answer(samples, **OPTIONS)
  assert answer == ''.join(assistant.stream(Clip(audio), **OPTIONS))
  assert isinstance(assistant.transcribe(audio), str)


def test_a_conversation_is_its_turns(assistant, audio):
  conversation = assistant.conversation()
  replies = [
    conversation.ask(audio, text='go on', **OPTIONS),
    conversation.ask(text='left', **OPTIONS),
    ''.join(conversation.stream(['now', Clip(audio), 'right'], **OPTIONS)),
  ]
  assert conversation.turns == [
    Turn('user', (Audio(0), 'go on')),
    Turn('assistant', replies[0]),
    Turn('user', ('left',)),
    Turn('assistant', replies[1]),
    Turn('user', ('now', Audio(1), 'right')),
    Turn('assistant', replies[2]),
  ]


def test_chat_hears_no_speech_in_silence(assistant):
  conversation = assistant.conversation()
  silence = Clip(np.zeros(8_000, np.float32))
  reply = conversation.stream(['say', silence], needs_speech=True, **OPTIONS)
  assert ''.join(reply) == 'I did not hear anything.' and conversation.turns == []
  assert ''.join(conversation.stream(['say'], needs_speech=True, **OPTIONS))
  assert len(conversation.turns) == 2


def test_a_later_turn_computes_only_what_is_new(assistant, audio):
  conversation, statistics = assistant.conversation(), assistant.engine.statistics
  conversation.ask(audio, text='one ' * 20, **OPTIONS)
  for _ in range(2):
    before = statistics.prefilled_tokens, statistics.reused_tokens
    conversation.ask(text='go on', **OPTIONS)
    computed = statistics.prefilled_tokens - before[0]
    reused = statistics.reused_tokens - before[1]
    assert computed < 30 < 60 < reused


def test_a_clip_is_encoded_once(assistant, audio, monkeypatch):
  encoded = []
  hear = Assistant.hear
  monkeypatch.setattr(
    Assistant, 'hear', lambda self, clip: encoded.append(clip) or hear(self, clip)
  )
  conversation = assistant.conversation()
  conversation.ask(audio, **OPTIONS)
  conversation.ask(text='stop now', **OPTIONS)
  assert len(encoded) == 1


def test_a_failed_turn_leaves_the_conversation_as_it_was(assistant, audio, tmp_path):
  conversation, other = assistant.conversation(), assistant.conversation()
  for each in (conversation, other):
    each.ask(audio, **OPTIONS)
  before = list(conversation.turns)
  (tmp_path / 'noise.wav').write_bytes(b'RIFF')
  long = np.zeros(16_000 * 301, np.float32)
  with pytest.raises(AudioError, match=r'noise\.wav'):
    conversation.ask(tmp_path / 'noise.wav', text='yes')
  with pytest.raises(ValueError, match=r'301\.0 s.* 300 s'):
    conversation.ask(long)
  with pytest.raises(ValueError, match=r'\d+ tokens.*max_new_tokens = 5'):
    conversation.ask(text='yes no ' * 300, **OPTIONS)
  with pytest.raises(ValueError, match='text.*audio'):
    conversation.ask()
  abandoned = conversation.stream(['go on'], **OPTIONS)
  next(abandoned, None)
  abandoned.close()
  assert conversation.turns == before
  assert conversation.ask(text='no', **OPTIONS) == other.ask(text='no', **OPTIONS)


def test_a_second_turn_compiles_nothing(assistant):
  conversation, compiled = assistant.conversation(), []
  conversation.ask(text='yes', **OPTIONS)
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(name)
  )
  try:
    conversation.ask(text='go on and on, left and right', **OPTIONS)
  finally:
    jax.monitoring.clear_event_listeners()
  assert not [name for name in compiled if 'backend_compile' in name]


def test_configs_are_found_by_name():
  with pytest.raises(FileNotFoundError, match=r'none\.py.*smol'):
    acl_jax.load('none')


@pytest.mark.full
def test_console_script_names_the_programs(tiny_world):
  def run(*arguments):
    command = [sys.executable, '-m', 'acl_jax.command', *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

  refused = run('chatt')
  assert refused.returncode == 1 and 'decode_targets' in refused.stderr
