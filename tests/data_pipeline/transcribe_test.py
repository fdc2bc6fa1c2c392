# SPDX-License-Identifier: Apache-2.0
"""Pseudo-labels of audio without transcripts, by a recogniser that is not one."""

import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acl_jax import assets
from acl_jax.runtime import locks, sigterm
from data_pipeline import transcribe as program
from data_pipeline import voice_activity
from data_pipeline.prepare import prepare
from data_pipeline.recogniser import Transcript, Whisper
from data_pipeline.transcription import batches


class FakeWhisper(Whisper):
  """Recognises the length of what it hears; some lengths in its own way.

  stop_at: number of recordings after which SIGTERM comes, once `results` has some.
  """

  sha256 = 'f' * 64

  def __init__(self, at_once=1, answers=(), stop_at=math.inf, results=None):
    self.at_once, self.answers = at_once, dict(answers)
    self.stop_at, self.results = stop_at, results
    self.heard, self.batches, self.languages = [], [], []

  def knows(self, language):
    return language in ('en', 'de')

  def transcribe(self, waveforms, languages):
    if len(self.heard) >= self.stop_at:
      deadline = time.monotonic() + 60
      while '"confidence"' not in self.results.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
      os.kill(os.getpid(), signal.SIGTERM)
    lengths = [len(waveform) for waveform in waveforms]
    self.heard += lengths
    self.batches.append(len(lengths))
    self.languages += languages
    usual = Transcript('', 'en', -0.25, 0.01, 0.9)
    return [self.answers.get(n, usual._replace(text=f' {n}  samples')) for n in lengths]


@pytest.fixture(autouse=True)
def tones_are_speech(monkeypatch):
  monkeypatch.setattr(batches, 'has_speech', lambda samples: bool(samples.any()))


@pytest.fixture
def folder(write_audio, tmp_path):
  """Seven tones, of 3,200 to 8,000 samples, in a folder."""
  for i in range(7):
    write_audio(tmp_path / f'in/{"ab"[i % 2]}/{i}.wav', seconds=0.2 + i / 20)
  return tmp_path / 'in'


def length(i):
  return 3_200 + 800 * i


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_manifest_of_a_folder_is_prepared(folder, tmp_path):
  soundfile.write(folder / 'silent.flac', np.zeros(7_000, np.int16), 16_000)
  (folder / 'broken.m4a').write_bytes(b'not audio')
  shutil.copy(folder / 'a/2.wav', folder / 'a/2.aiff')
  fake = FakeWhisper(
    at_once=2,
    answers=[
      (length(1), Transcript('la la la', 'de', -0.1, 0.01, 7.0)),
      (length(3), Transcript('mumbled', 'de', -1.5, 0.3, 0.9)),
      (length(5), Transcript('Thank you.', 'de', -1.5, 0.9, 0.9)),
    ],
  )
  out = tmp_path / 'out'
  info = program.transcribe(folder, out, fake, batch_size=3, max_skipped=0.1)
  assert info['transcripts'] == 7 and info['recordings'] == 10
  assert info['skipped_by_field'] == {'no_speech': 2, 'content': 1}
  assert info['flagged'] == {'repetition': 1, 'low_log_prob': 1}
  assert info['model'] == {'sha256': 'f' * 64, 'beam_size': 5}
  assert sorted(fake.heard) == sorted([*map(length, range(7)), length(2)])
  by_id = {line['id']: line for line in lines(out / 'manifest.jsonl')}
  assert list(by_id) == ['a/0', 'a/2', 'a/2.wav', 'a/4', 'a/6', 'b/1', 'b/3']
  assert by_id['a/4'] == {
    'audio_filepath': str(folder / 'a/4.wav'),
    'text': '6400 samples',
    'duration': 0.4,
    'id': 'a/4',
    'lang': 'en',
    'confidence': 0.7788,
    'mean_log_prob': -0.25,
    'no_speech_prob': 0.01,
    'compression_ratio': 0.9,
  }
  assert (by_id['b/1']['confidence'], by_id['b/1']['flags']) == (0, ['repetition'])
  assert by_id['b/3']['flags'] == ['low_log_prob'] and by_id['b/3']['lang'] == 'de'
  reasons = {line['id']: line['field'] for line in lines(out / 'skipped.jsonl')}
  assert reasons == {'b/5': 'no_speech', 'silent': 'no_speech', 'broken': 'content'}

  prepared = prepare('manifest', out / 'manifest.jsonl', tmp_path / 'prepared')
  assert prepared['examples'] == 7 and not prepared['skipped']
  index = lines(tmp_path / 'prepared/index.jsonl')
  assert {entry['id']: entry['text'] for entry in index}['a/4'] == '6400 samples'

  # Another limit needs no recogniser.
  info = program.transcribe(
    folder, out, FakeWhisper(stop_at=0), max_skipped=0.1, min_confidence=0.2
  )
  assert info['skipped_by_field']['confidence'] == 1 and info['transcripts'] == 6
  assert 'b/1' not in {line['id'] for line in lines(out / 'manifest.jsonl')}


def test_parts_of_recordings_and_what_is_known_of_them(write_audio, tmp_path):
  write_audio(tmp_path / 'in/long.wav', seconds=2.0)
  entries = [
    {'offset': 0.5, 'duration': 0.25, 'speaker': 'eva', 'lang': 'de', 'text': 'old'},
    {'offset': 1.0, 'duration': 0.75, 'id': 'named'},
    {'audio_filepath': 'in/other.wav'},
  ]
  manifest = tmp_path / 'm.jsonl'
  manifest.write_text(
    '\n'.join(json.dumps({'audio_filepath': 'in/long.wav'} | e) for e in entries)
  )
  fake, settings = FakeWhisper(), batches.Settings(language='en')
  info = program.transcribe(
    manifest, tmp_path, fake, settings=settings, max_skipped=0.5
  )
  assert fake.heard == [4_000, 12_000] and fake.languages == ['de', 'en']
  assert fake.batches == [2] and info['skipped_by_field'] == {'file': 1}
  first, second = lines(tmp_path / 'manifest.jsonl')
  assert first['audio_filepath'] == 'in/long.wav' and first['text'] == '4000 samples'
  keys = ('offset', 'duration', 'speaker', 'lang', 'id')
  assert [first[k] for k in keys] == [0.5, 0.25, 'eva', 'de', 'in/long-0.500']
  assert second['id'] == 'named' and 'speaker' not in second
  prepare('manifest', tmp_path / 'manifest.jsonl', tmp_path / 'prepared')


def test_sigterm_loses_no_finished_batch(folder, tmp_path, handled_sigterm):
  out = tmp_path / 'out'
  fake = FakeWhisper(stop_at=4, results=out / 'results.jsonl')
  with pytest.raises(sigterm.Preempted):
    program.transcribe(folder, out, fake, batch_size=2)
  assert not (out / 'manifest.jsonl').exists() and not (out / locks.NAME).exists()
  stored = (out / 'results.jsonl').read_text()
  done = stored.count('"confidence"')
  assert 2 <= done < 7
  (out / 'results.jsonl').write_text(stored[:-9])  # as of a process that was killed
  sigterm.uninstall()
  rest = FakeWhisper()
  info = program.transcribe(folder, out, rest, batch_size=2)
  assert info['transcripts'] == 7 and len(rest.heard) == 7 - (done - 1)
  fresh = program.transcribe(folder, tmp_path / 'fresh', FakeWhisper())
  assert fresh == info
  for name in ('manifest.jsonl', 'skipped.jsonl', 'transcripts.json'):
    assert (out / name).read_bytes() == (tmp_path / 'fresh' / name).read_bytes()


def test_only_what_is_new_or_has_changed_is_transcribed(folder, write_audio, tmp_path):
  out = tmp_path / 'out'
  program.transcribe(folder, out, FakeWhisper())
  write_audio(folder / 'a/0.wav', seconds=0.9)
  write_audio(folder / 'a/00.wav', seconds=1.1)
  again = FakeWhisper()
  info = program.transcribe(folder, out, again)
  assert again.heard == [14_400, 17_600] and info['transcripts'] == 8
  texts = {line['id']: line['text'] for line in lines(out / 'manifest.jsonl')}
  assert texts['a/0'] == '14400 samples'


def test_what_cannot_be_done_is_one_sentence(folder, tmp_path):
  out = tmp_path / 'out'
  program.transcribe(folder, out, FakeWhisper())
  other = FakeWhisper()
  other.sha256 = 'e' * 64
  with pytest.raises(ValueError, match="out: was written with model .*'ffff.*'eeee"):
    program.transcribe(folder, out, other)
  settings = batches.Settings(language='de')
  with pytest.raises(ValueError, match='was written with settings'):
    program.transcribe(folder, out, FakeWhisper(), settings=settings)
  with pytest.raises(ValueError, match='--language=xx is unknown to the model'):
    program.transcribe(
      folder, out, FakeWhisper(), settings=batches.Settings(language='xx')
    )
  with locks.own_folder(out):
    with pytest.raises(ValueError, match='is writing here'):
      program.transcribe(folder, out, FakeWhisper())
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='empty: has no audio'):
    program.transcribe(tmp_path / 'empty', tmp_path / 'none', FakeWhisper())
  assert not (tmp_path / 'none/manifest.jsonl').exists()
  with pytest.raises(FileNotFoundError, match='absent: is no folder'):
    program.transcribe(tmp_path / 'absent', tmp_path / 'none', FakeWhisper())
  (folder / 'x.mp3').write_bytes(b'ID3')
  with pytest.raises(ValueError, match=r'1 of 8 recordings cannot .*limit 1.0%'):
    program.transcribe(folder, tmp_path / 'b', FakeWhisper())
  quiet = FakeWhisper(answers=[(length(i), Transcript('', '')) for i in range(7)])
  with pytest.raises(ValueError, match=r"no transcript of 8 .*'no_speech': 7"):
    program.transcribe(folder, tmp_path / 'c', quiet, max_skipped=1.0)
  assert not (tmp_path / 'c/transcripts.json').exists()


RECORDINGS = Path(program.__file__).parent / 'recordings'


@pytest.mark.full
def test_the_embedded_whisper(tmp_path, monkeypatch, run_program):
  pytest.importorskip('faster_whisper')
  monkeypatch.setattr(batches, 'has_speech', voice_activity.has_speech)
  assets.resolve('asset:whisper-base')
  (tmp_path / 'in').mkdir()
  entries = lines(RECORDINGS / 'manifest.jsonl')
  chosen = [e for e in entries if e['id'] in ('activated', 'agent-alreadyon')]
  for entry in chosen:
    shutil.copy(RECORDINGS / entry['audio_filepath'], tmp_path / 'in')
  noise = np.random.default_rng(0).normal(0, 0.001, 30_000)
  soundfile.write(tmp_path / 'in/noise.wav', noise, 16_000)
  done = run_program(
    'data_pipeline.transcribe', f'--input={tmp_path}/in', f'--output={tmp_path}/out'
  )
  assert done.returncode == 0, done.stderr
  assert 'transcribe: 2 of 3 recordings' in done.stdout
  found = lines(tmp_path / 'out/manifest.jsonl')
  assert {e['id']: e['text'] for e in found} == {e['id']: e['text'] for e in chosen}
  assert all(e['confidence'] > 0.4 and e['lang'] == 'en' for e in found)
