# SPDX-License-Identifier: Apache-2.0
"""A small asset in place of Kokoro, and a fake espeak-ng, except in the last tests."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from acl_jax import assets
from data_pipeline import audio
from data_pipeline.corpus_tools import kokoro
from data_pipeline.corpus_tools.engines import SpokenLine, Voice, speak
from data_pipeline.corpus_tools.speech import synthesize

VOCABULARY = {'a': 3, 'b': 4, ' ': 5, ',': 6, 'ɹ': 7}


@pytest.fixture
def folder(tmp_path):
  """An asset folder with the voices af_one, af_two and bf_three, and one too short."""
  folder = tmp_path / 'kokoro'
  folder.mkdir()
  for number, name in enumerate(('af_one', 'af_two', 'bf_three', 'am_short'), 1):
    rows = 6 if name == 'am_short' else 510
    np.full((rows, 256), number, '<f4').tofile(folder / f'{name}.bin')
  (folder / 'bf_torn.bin').write_bytes(b'torn')
  (folder / 'config.json').write_text(json.dumps({'vocab': VOCABULARY}))
  # Undone before the fixture `stay_fast` is, which patches the same function.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(assets, 'fetch', lambda name: folder)
    patch.setattr(shutil, 'which', lambda name: f'/bin/{name}')
    yield folder


def fake_espeak(monkeypatch):
  """Let espeak-ng answer with its input; returns the languages it is asked for."""
  languages = []

  def run(command, input, **_):
    languages.append(command[command.index('-v') + 1])
    assert input.decode() not in command
    return subprocess.CompletedProcess(command, 0, input, b'')

  monkeypatch.setattr(kokoro.subprocess, 'run', run)
  return languages


def test_blend_is_the_mean_of_its_styles(folder):
  assert kokoro.load_style('af_two', folder).shape == (510, 256)
  blend = kokoro.load_style('af_one+af_two+bf_three', folder)
  np.testing.assert_allclose(blend, 2)
  assert blend.dtype == np.float32
  np.testing.assert_allclose(kokoro.load_style('af_one+af_one+bf_three', folder), 5 / 3)


def test_voices_are_parsed(folder):
  voice = Voice.parse('kokoro:af_two+bf_three')
  assert voice == Voice('kokoro', 'af_two+bf_three')
  assert str(voice) == 'kokoro:af_two+bf_three'


@pytest.mark.parametrize(
  'name, message',
  [
    ('af_twoo', "no voice 'af_twoo'; did you mean 'af_two'"),
    ('zz', "no voice 'zz'; use one of af_one, af_two, am_short, bf_three, bf_torn"),
    ('af_one+', "no voice ''"),
    ('../af_one', "no voice '../af_one'"),
    ('af_one+am_short', r'unequal length \(af_one has 510, am_short has 6\)'),
    ('bf_torn', 'bf_torn.bin: 4 bytes'),
  ],
)
def test_unusable_voices_are_refused(folder, name, message):
  with pytest.raises(ValueError, match=message):
    Voice.parse(f'kokoro:{name}')


def test_missing_programs_are_reported(folder):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(kokoro, 'find_spec', lambda name: None)
    with pytest.raises(FileNotFoundError, match="'kokoro:af_one' .*onnxruntime; pip"):
      Voice.parse('kokoro:af_one')
    patch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(FileNotFoundError, match="'kokoro:af_one' .*espeak-ng; install"):
      Voice.parse('kokoro:af_one')


def test_punctuation_between_phonemes_stays_but_not_in_numbers(monkeypatch):
  fake_espeak(monkeypatch)
  for text, phonemes in (
    ('b, a (ba) a?', 'b, a (ba) a?'),
    ('a 3.5, 1,000.', 'a 3.5, 1,000.'),
    ('  a  b ', 'a b'),
    ('"a" ', '"a"'),
    ('rax', 'ɹak'),
  ):
    assert kokoro.phonemize(text, 'en-us') == phonemes


def test_marks_of_another_language_are_no_phonemes(monkeypatch):
  done = subprocess.CompletedProcess([], 0, b'a (fr)b(en-us)\na\n', b'')
  monkeypatch.setattr(kokoro.subprocess, 'run', lambda *_, **__: done)
  assert kokoro.phonemize('x', 'en-us') == 'a b a'


def test_language_is_that_of_the_first_voice(folder, monkeypatch):
  languages = fake_espeak(monkeypatch)
  model = kokoro.Kokoro.__new__(kokoro.Kokoro)
  model._folder = folder
  assert model.tokenize('a, b r', 'af_one+bf_three') == [3, 6, 5, 4, 5, 7]
  assert model.tokenize('a', 'bf_three+af_one') == [3]
  assert languages == ['en-us', 'en-us', 'en-gb']


def test_lines_without_phonemes_and_long_lines_are_refused():
  with pytest.raises(ValueError, match="'你好' has no phonemes"):
    kokoro.to_tokens('zz ,', VOCABULARY, '你好')
  assert len(kokoro.to_tokens('ab' * 254 + 'a', VOCABULARY, 'x')) == 509
  with pytest.raises(ValueError, match="'x{60}…' has 510 phonemes; .* 509"):
    kokoro.to_tokens('ab' * 255, VOCABULARY, 'x' * 99)


# Writes `rate` seconds of speech for every line, until one says `fail`.
PROCESS = """
import json, sys
import numpy as np, soundfile
for line in sys.stdin:
  job = json.loads(line)
  if job['text'] == 'fail':
    sys.exit("error: 'fail' has no phonemes")
  soundfile.write(job['path'], np.ones(round(24_000 * job['rate'])) / 9, 24_000)
  print(job['voice'], file=open(__file__ + '.voices', 'a'))
"""


@pytest.mark.full
def test_many_lines_are_spoken_by_one_process(folder, tmp_path, monkeypatch):
  package = tmp_path / 'path/data_pipeline'
  package.mkdir(parents=True)
  (package / '__init__.py').touch()
  (package / 'kokoro.py').write_text(PROCESS)
  monkeypatch.chdir(tmp_path / 'path')
  voices = [Voice('kokoro', 'af_one'), Voice('kokoro', 'af_one+af_two')]
  manifest = synthesize([f'line {i}' for i in range(20)], voices, tmp_path / 'out')
  entries = [json.loads(line) for line in manifest.read_text().splitlines()]
  plan = [json.loads(x) for x in (tmp_path / 'out/plan.jsonl').read_text().splitlines()]
  for entry, (_, _, voice, rate, _) in zip(entries, plan, strict=True):
    assert entry['duration'] == pytest.approx(rate, abs=1e-3)
    assert entry['speaker'] == voice
  assert len((package / 'kokoro.py.voices').read_text().splitlines()) == 20
  lines = [
    SpokenLine(text, text, voices[0], 1.0, 1.0) for text in ('one', 'fail', 'two')
  ]
  with pytest.raises(ChildProcessError, match="^kokoro failed: error: 'fail' has no"):
    speak(lines, tmp_path)
  assert (tmp_path / 'one.flac').exists() and not (tmp_path / 'two.flac').exists()


@pytest.mark.full
def test_malformed_line_is_refused_by_the_program():
  done = subprocess.run(
    [sys.executable, '-m', 'data_pipeline.kokoro'],
    input='{"text": "hi"}\n', capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 1, done.stderr
  *_, last = done.stderr.splitlines()  # it may have fetched Kokoro before
  assert last.startswith('error: line 1 is')


@pytest.mark.full
@pytest.mark.skipif(shutil.which('espeak-ng') is None, reason='requires espeak-ng')
def test_whisper_understands_a_blend(tmp_path):
  from faster_whisper import WhisperModel

  voice = Voice.parse('kokoro:af_bella+bf_emma')
  lines = ['What is the capital of France?', 'It costs $40 at 7:30.']
  manifest = synthesize(lines, [voice], tmp_path, variation=0.0)
  whisper = WhisperModel(str(assets.resolve('asset:whisper-base')), 'cpu')
  heard = []
  for entry in map(json.loads, manifest.read_text().splitlines()):
    path = str(tmp_path / entry['audio_filepath'])
    assert soundfile.info(path).samplerate == 24_000
    segments, _ = whisper.transcribe(audio.read(path), language='en')
    heard.append(''.join(segment.text for segment in segments))
  assert heard[0].strip(' .?').lower() == 'what is the capital of france'
  assert '40' in heard[1] and '7' in heard[1] and '30' in heard[1]
