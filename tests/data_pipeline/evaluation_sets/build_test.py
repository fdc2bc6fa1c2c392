# SPDX-License-Identifier: Apache-2.0
"""Sets said by fake engines."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.corpora import manifest
from data_pipeline.corpus_tools import speech
from data_pipeline.evaluation_sets import texts
from data_pipeline.evaluation_sets.manifests import plan_line
from data_pipeline.evaluation_sets.speech import (
  MAX_CHARACTERS,
  PAUSE_SECONDS,
  Speaker,
  split_sentences,
)
from data_pipeline.evaluation_sets.voices import choose_voices, pick_voice

ROOT = Path(__file__).parents[3]
RATE = 8_000
# Writes 100 samples per character.
ENGINE = f"""#!{sys.executable}
import struct, sys, wave
text = sys.stdin.buffer.read().decode()
option = '-o' if sys.argv[0].endswith('flite') else '-w'
with wave.open(sys.argv[sys.argv.index(option) + 1], 'wb') as file:
  file.setnchannels(1), file.setsampwidth(2), file.setframerate({RATE})
  file.writeframes(struct.pack('<h', 1000) * 100 * len(text))
"""
SPECS = ['flite:rms', 'flite:slt', 'fr=espeak-ng:fr', 'de=espeak-ng:de']


class Engines:
  """Stands for the engines: what is installed, and what was said."""

  def __init__(self):
    self.installed = {'flite', 'espeak-ng'}
    self.said = []

  def which(self, name):
    return f'/usr/bin/{name}' if name in self.installed else None

  def speak(self, lines, folder):
    for line in lines:
      self.said.append(line.text)
      samples = np.full(100 * len(line.text), 1_000, np.int16)
      soundfile.write(folder / f'{line.id}.flac', samples, RATE)


@pytest.fixture
def engines(monkeypatch):
  fake = Engines()
  monkeypatch.setattr(shutil, 'which', fake.which)
  monkeypatch.setattr(speech, 'speak', fake.speak)
  return fake


def say(name, number, output, specs=SPECS):
  """The manifest lines of line `number` of a set."""
  voices, _ = choose_voices(specs)
  speaker = Speaker(voices, output)
  finish = plan_line(name, texts.read_set(name)[number], speaker)
  speaker.speak()
  return finish()


def test_a_question_becomes_a_line_with_audio(engines, tmp_path):
  (line,) = say('questions', 4, tmp_path)
  source = texts.read_set('questions')[4]
  assert source.items() <= line.items()
  assert line['speaker'] in ('flite:rms', 'flite:slt')
  utterance = manifest.from_entry(line, tmp_path)
  seconds = soundfile.info(utterance.audio_filepath).duration
  assert line['duration'] == pytest.approx(seconds, abs=0.001)


def test_a_long_text_is_said_by_one_voice_with_pauses(engines, tmp_path):
  (line,) = say('passages', 2, tmp_path)
  said = split_sentences(line['text'])
  assert ' '.join(said) == line['text'] and len(said) > 5
  assert max(map(len, said)) <= MAX_CHARACTERS
  assert sorted(engines.said) == sorted(said)
  seconds = sum(map(len, said)) * 100 / RATE + (len(said) - 1) * PAUSE_SECONDS
  assert line['duration'] == pytest.approx(seconds, abs=0.002)
  assert len(list((tmp_path / 'audio').iterdir())) == 1


def test_every_passage_is_short_enough_for_the_engines():
  for entry in texts.read_set('passages'):
    assert max(map(len, split_sentences(entry['text']))) <= MAX_CHARACTERS, entry['id']


def test_what_is_written_in_a_conversation_has_no_audio(engines, tmp_path):
  for number, entry in enumerate(texts.read_set('conversations')[36:44]):
    (line,) = say('conversations', 36 + number, tmp_path)
    users = [turn['content'] for turn in line['turns'][::2]]
    assert ''.join('t' if isinstance(c, str) else 'a' for c in users) == line['pattern']
    said = [content[0] for content in users if not isinstance(content, str)]
    assert all((tmp_path / part['audio_filepath']).is_file() for part in said)
    assert len({part['speaker'] for part in said}) <= 1
    assert not any('say' in part for part in said)
    assert [turn['role'] for turn in line['turns']] == [
      turn['role'] for turn in entry['turns']
    ]


def test_a_sentence_is_translated_from_every_language_with_a_voice(engines, tmp_path):
  voices, _ = choose_voices(SPECS)
  speaker = Speaker({lang: voices[lang] for lang in ('en', 'de')}, tmp_path)
  entry = texts.read_set('translations')[8]
  finish = plan_line('translations', entry, speaker, every_pair=True)
  speaker.speak()
  lines = {(line['lang'], line['target_lang']): line for line in finish()}
  assert set(lines) == {('en', x) for x in ('fr', 'es', 'it', 'de')} | {('de', 'en')}
  for (source, target), line in lines.items():
    assert (line['text'], line['reference']) == (entry[source], entry[target])
  assert len({line['id'] for line in lines.values()}) == 5
  assert len({line['audio_filepath'] for line in lines.values()}) == 2


def test_sentences_take_turns_with_the_other_languages(engines, tmp_path):
  voices, _ = choose_voices([*SPECS, 'es=espeak-ng:es', 'it=espeak-ng:it'])
  speaker = Speaker(voices, tmp_path)
  entries = texts.read_set('translations')[10:18]
  planned = [plan_line('translations', entry, speaker) for entry in entries]
  speaker.speak()
  pairs = [[(x['lang'], x['target_lang']) for x in finish()] for finish in planned]
  assert all(there == back[::-1] for there, back in pairs)
  assert sorted(target for (_, target), _ in pairs) == sorted(
    ['fr', 'es', 'it', 'de'] * 2
  )
  assert len(engines.said) == 16


def test_audio_that_exists_is_kept(engines, tmp_path):
  first = say('choices', 3, tmp_path)
  assert say('choices', 3, tmp_path) == first
  assert len(engines.said) == 1


def test_another_voice_is_another_file(engines, tmp_path):
  (one,), (other,) = (
    say('choices', 3, tmp_path, [spec]) for spec in ('flite:rms', 'flite:slt')
  )
  assert one['audio_filepath'] != other['audio_filepath']


def test_both_voices_say_about_half(engines):
  voices, _ = choose_voices(SPECS)
  ids = [entry['id'] for entry in texts.read_set('questions')]
  chosen = [pick_voice(voices, 'en', id) for id in ids]
  assert chosen == [pick_voice(voices, 'en', id) for id in ids]
  assert 70 <= chosen.count(voices['en'][0]) <= 130


def test_default_voices_that_are_missing_are_reported(engines):
  voices, missing = choose_voices(['flite:rms'])
  assert missing == [] and voices.keys() == {'en', 'fr', 'es', 'it', 'de'}
  engines.installed.remove('espeak-ng')
  voices, missing = choose_voices(['flite:rms'])
  assert voices.keys() == {'en'} and 'requires the program espeak-ng' in missing[0]
  with pytest.raises(FileNotFoundError, match='requires the program espeak-ng'):
    choose_voices(['fr=espeak-ng:fr'])


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    ('xx=espeak-ng:xx', "language 'xx' is not one of en"),
    ('fr=flite:rms', 'flite speaks English only'),
    ('festival:kal', "unknown voice 'festival:kal'"),
  ],
)
def test_voices_that_cannot_be_used_are_refused(engines, spec, message):
  with pytest.raises(ValueError, match=message):
    choose_voices([spec])


def build(*flags, **environment):
  command = [sys.executable, '-m', 'data_pipeline.evaluation_sets.build', *flags]
  return subprocess.run(
    command,
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)} | environment,
    capture_output=True,
    text=True,
  )


@pytest.mark.full
def test_the_program_writes_the_sets_that_are_named(tmp_path):
  for name in ('flite', 'espeak-ng'):
    (tmp_path / name).write_text(ENGINE)
    (tmp_path / name).chmod(stat.S_IRWXU)
  path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
  flags = ['--sets=questions,translations', '--voices=flite:rms', '--limit=3']
  done = build(f'--output={tmp_path}', *flags, PATH=path)
  assert done.returncode == 0, done.stderr
  assert f'6 lines in {tmp_path}/translations.jsonl' in done.stdout
  lines = (tmp_path / 'questions.jsonl').read_text().splitlines()
  assert [json.loads(line)['id'][-3:] for line in lines] == ['001', '002', '003']


@pytest.mark.full
@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--sets=riddles', '--sets=riddles is unknown'),
    ('--voices=xx=flite:rms', "language 'xx' is not one of"),
    ('--limit=0', 'limit'),
  ],
)
def test_wrong_flags_are_refused(flag, message, tmp_path):
  done = build(f'--output={tmp_path}', flag)
  assert done.returncode == 1 and message in done.stderr
