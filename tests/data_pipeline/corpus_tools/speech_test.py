# SPDX-License-Identifier: Apache-2.0
"""Fake engines under the names of flite, espeak-ng and piper."""

import json
import os
import stat
import sys
from collections import Counter

import pytest
import soundfile

from acl_jax.runtime import locks
from data_pipeline.corpus_tools.engines import Voice
from data_pipeline.corpus_tools.speech import MAX_CHARACTERS, assign_voices, synthesize

pytestmark = pytest.mark.full

# Logs its arguments, and writes 1000 samples per character.
ENGINE = f"""#!{sys.executable}
import struct, sys, wave
text = sys.stdin.buffer.read().decode()
option = '-o' if sys.argv[0].endswith('flite') else '-w'
path = sys.argv[sys.argv.index(option) + 1]
with open(__file__ + '.calls', 'a') as calls:
  calls.write(repr((sys.argv[1:], text)) + '\\n')
if 'fail' in text:
  sys.exit('first line\\nno such phoneme')
if 'nothing' not in text:
  with wave.open(path, 'wb') as file:
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
    samples = 0 if 'mute' in text else 1000 * len(text)
    file.writeframes(struct.pack('<h', 1000) * samples)
"""
PIPER = """
import sys, time, wave, pathlib
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
lines = pathlib.Path(options['-i']).read_text().splitlines()
for i, line in enumerate(lines if 'lose' not in lines else lines[1:], 9):
  with wave.open(f"{options['-d']}/{i}.wav", 'wb') as file:
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(22050)
    file.writeframes(bytes(2000 * len(line)))
"""
LINES = ['How are you?', 'Fine.', 'And who is this?', 'Grüße, 你好', '-o /tmp/x --help']


@pytest.fixture
def engines(tmp_path, monkeypatch):
  folder = tmp_path / 'bin'
  folder.mkdir()
  for name in ('flite', 'espeak-ng'):
    (folder / name).write_text(ENGINE)
    (folder / name).chmod(stat.S_IRWXU)
  (folder / 'piper').mkdir()
  (folder / 'piper/__init__.py').touch()  # gives it precedence over an installed piper
  (folder / 'piper/__main__.py').write_text(PIPER)
  (folder / 'voice.onnx').touch()
  monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('PYTHONPATH', str(folder))
  return folder


@pytest.fixture
def voices(engines):
  return [Voice.parse(spec) for spec in ('flite:slt', 'espeak-ng:en-us+f2')]


def calls(engines):
  """(arguments, text) of every run of a fake engine."""
  logs = engines.glob('*.calls')
  return [eval(line) for log in logs for line in log.read_text().splitlines()]


def read_manifest(manifest):
  return [json.loads(line) for line in manifest.read_text().splitlines()]


def test_every_line_has_audio_and_a_manifest_entry(engines, voices, tmp_path):
  manifest = synthesize(LINES, voices, tmp_path / 'out', workers=2)
  entries = read_manifest(manifest)
  assert [entry['text'] for entry in entries] == LINES
  assert len({entry['id'] for entry in entries}) == len(LINES)
  for entry in entries:
    audio, rate = soundfile.read(manifest.parent / entry['audio_filepath'])
    assert (rate, len(audio)) == (8000, 1000 * len(entry['text']))
    assert entry['duration'] == round(len(audio) / rate, 3)
    assert entry['speaker'] in ('flite:slt', 'espeak-ng:en-us+f2')
  suffixes = {path.suffix for path in (tmp_path / 'out').rglob('*') if path.is_file()}
  assert suffixes == {'.flac', '.jsonl'}


def test_the_folder_of_another_program_is_refused(engines, voices, tmp_path):
  with locks.own_folder(tmp_path / 'speech'):
    with pytest.raises(ValueError, match='speech: .* is writing here'):
      synthesize(LINES, voices, tmp_path / 'speech')


def test_text_is_passed_by_stdin_only(engines, voices, tmp_path):
  synthesize(LINES, voices, tmp_path / 'out', workers=1)
  assert Counter(text for _, text in calls(engines)) == Counter(LINES)
  for arguments, text in calls(engines):
    assert not any(text in argument for argument in arguments)


def test_voices_depend_on_seed_and_line_number_only(voices):
  first = assign_voices(LINES, voices, 0, 0.15)
  assert assign_voices(LINES, voices, 0, 0.15) == first
  assert assign_voices(LINES + ['one more'], voices, 0, 0.15)[: len(LINES)] == first
  assert assign_voices(LINES, voices, 1, 0.15) != first
  assert all(0.85 <= x <= 1.15 for line in first for x in (line.rate, line.pitch))
  assert {line.rate for line in assign_voices(LINES, voices, 0, 0.0)} == {1.0}
  counts = Counter(line.voice for line in assign_voices(LINES * 40, voices, 0, 0.15))
  assert min(counts[voice] for voice in voices) > 70


def test_rate_and_pitch_reach_the_engines(engines, voices, tmp_path):
  synthesize(['Hello.'] * 8, voices, tmp_path / 'out')
  spoken_lines = assign_voices(['Hello.'] * 8, voices, 0, 0.15)
  by_path = {
    arguments[-1 if '-o' in arguments else -2]: arguments
    for arguments, _ in calls(engines)
  }
  for line in spoken_lines:
    (arguments,) = [a for path, a in by_path.items() if f'.{line.id}.wav' in path]
    if line.voice.engine == 'flite':
      assert f'duration_stretch={1 / line.rate:.3f}' in arguments
    else:
      assert arguments[2:6] == [
        '-s',
        f'{165 * line.rate:.0f}',
        '-p',
        f'{50 * line.pitch:.0f}',
      ]


def test_interrupted_run_resumes(engines, voices, tmp_path):
  whole = synthesize(LINES, voices, tmp_path / 'whole')
  lines = [*LINES[:3], 'fail', *LINES[4:]]
  with pytest.raises(ChildProcessError, match="'fail': no such phoneme"):
    synthesize(lines, voices, tmp_path / 'out', workers=1)
  assert not (tmp_path / 'out/manifest.jsonl').exists()
  for path in engines.glob('*.calls'):
    path.unlink()
  for name in ('flite', 'espeak-ng'):  # without the failure
    (engines / name).write_text(ENGINE.replace("if 'fail' in text", 'if False'))
  resumed = synthesize(lines, voices, tmp_path / 'out', workers=1)
  # The line that failed, and those that had not started.
  assert 'fail' in {text for _, text in calls(engines)} <= {'fail', LINES[4]}
  pairs = zip(read_manifest(resumed), read_manifest(whole), strict=True)
  for entry, expected in pairs:
    assert entry['speaker'] == expected['speaker'] and entry['id'] == expected['id']
  num_calls = len(calls(engines))
  assert synthesize(lines, voices, tmp_path / 'out') == resumed
  assert len(calls(engines)) == num_calls


def test_lines_can_be_appended_but_not_changed(engines, voices, tmp_path):
  out = tmp_path / 'out'
  synthesize(LINES[:3], voices, out)
  assert len(read_manifest(synthesize(LINES, voices, out))) == len(LINES)
  assert len(read_manifest(synthesize(LINES[:2], voices, out))) == 2
  num_calls = len(calls(engines))
  for lines, new_voices, seed in (
    ([*LINES[:4], 'Another.'], voices, 0),
    (LINES, voices[:1], 0),
    (LINES, voices, 1),
  ):
    with pytest.raises(ValueError, match=rf'{out}: line 000000\d .*--output'):
      synthesize(lines, new_voices, out, seed=seed)
  assert len(calls(engines)) == num_calls


@pytest.mark.parametrize('text', ['nothing', 'mute'])
def test_engine_without_output_is_an_error(voices, tmp_path, text):
  with pytest.raises(ChildProcessError, match=f"produced no audio for '{text}'"):
    synthesize([text], voices, tmp_path / 'out')


def test_engine_timeout_is_an_error(engines, voices, tmp_path, monkeypatch):
  monkeypatch.setattr('data_pipeline.corpus_tools.engines.SECONDS_PER_LINE', 0.2)
  (engines / 'flite').write_text(f'#!{sys.executable}\nimport time; time.sleep(9)')
  with pytest.raises(ChildProcessError, match=r"flite .*\b0\.2 s .*'Hm'"):
    synthesize(['Hm'], voices[:1], tmp_path / 'out')


def test_long_line_is_rejected(voices, tmp_path):
  lines = ['ok', 'x' * (MAX_CHARACTERS + 1)]
  with pytest.raises(ValueError, match=r'line 2 .*\b1001\b.*\b1000\b'):
    synthesize(lines, voices, tmp_path / 'out')


def test_piper_speaks_many_lines_in_one_process(engines, tmp_path, monkeypatch):
  monkeypatch.setattr('data_pipeline.corpus_tools.speech.PIPER_LINES_PER_PROCESS', 2)
  voice = Voice('piper', str(engines / 'voice.onnx'))
  lines = ['one', 'three', 'fifteen', 'two\nlines', 'seven', 'eleven', 'x' * 20]
  manifest = synthesize(lines, [voice], tmp_path / 'out')
  for entry in read_manifest(manifest):
    info = soundfile.info(manifest.parent / entry['audio_filepath'])
    assert info.frames == 1000 * len(entry['text'])
    assert entry['speaker'] == 'piper:voice'
  with pytest.raises(ChildProcessError, match=r'piper .*\b1 files .*\b2 lines'):
    synthesize(['lose', 'this'], [voice], tmp_path / 'other')


@pytest.mark.parametrize(
  'spec, error, message',
  [
    ('slt', ValueError, "'slt'.*flite:NAME, espeak-ng:NAME, piper:NAME, kokoro:NAME"),
    ('flite:', ValueError, "'flite:'"),
    ('say:anna', ValueError, "'say:anna'"),
    ('piper:no.onnx', FileNotFoundError, "'piper:no.onnx': .* no.onnx"),
  ],
)
def test_unknown_voices_are_rejected(engines, spec, error, message):
  with pytest.raises(error, match=message):
    Voice.parse(spec)


def test_missing_engine_is_reported(monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(FileNotFoundError, match="'flite:slt' .* flite;"):
    Voice.parse('flite:slt')


def test_program(engines, tmp_path, start_program):
  (tmp_path / 'lines.txt').write_text('\n'.join(['', *LINES, '  ', 'Good bye. ']))
  options = [f'--input={tmp_path}/lines.txt', f'--output={tmp_path}/out']
  voices = '--voices=flite:slt,espeak-ng:en'
  done = start_program('data_pipeline.synthesize', *options, voices)
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'synthesize: 6 lines in {tmp_path}/out/manifest.jsonl\n'
  assert read_manifest(tmp_path / 'out/manifest.jsonl')[-1]['text'] == 'Good bye.'


def test_program_reports_engine_errors(engines, tmp_path, run_program):
  (tmp_path / 'lines.txt').write_text('Please fail.')
  options = [f'--input={tmp_path}/lines.txt', f'--output={tmp_path}/out']
  done = run_program('data_pipeline.synthesize', *options, '--voices=flite:slt')
  assert done.returncode == 1
  assert done.stderr == "error: flite failed on 'Please fail.': no such phoneme\n"
