# SPDX-License-Identifier: Apache-2.0
"""With an engine of our own under the names of flite and espeak-ng."""

import json
import os
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from data_pipeline.engines import Voice
from data_pipeline.synthesize import MAX_CHARACTERS, assign_voices, synthesize

ROOT = Path(__file__).parents[2]
# It notes how it was called, and says a sample per letter.
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
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
lines = pathlib.Path(given['-i']).read_text().splitlines()
for i, line in enumerate(lines if 'lose' not in lines else lines[1:], 9):
  with wave.open(f"{given['-d']}/{i}.wav", 'wb') as file:
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
  (folder / 'piper/__init__.py').touch()  # else an installed piper comes first
  (folder / 'piper/__main__.py').write_text(PIPER)
  (folder / 'voice.onnx').touch()
  monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('PYTHONPATH', str(folder))
  return folder


@pytest.fixture
def voices(engines):
  return [Voice.parse(written) for written in ('flite:slt', 'espeak-ng:en-us+f2')]


def calls(engines):
  notes = engines.glob('*.calls')
  return [eval(line) for note in notes for line in note.read_text().splitlines()]


def read(manifest):
  return [json.loads(line) for line in manifest.read_text().splitlines()]


def test_every_line_is_spoken_and_listed(engines, voices, tmp_path):
  manifest = synthesize(LINES, voices, tmp_path / 'out', workers=2)
  entries = read(manifest)
  assert [entry['text'] for entry in entries] == LINES
  assert len({entry['id'] for entry in entries}) == len(LINES)
  for entry in entries:
    sound, rate = soundfile.read(manifest.parent / entry['audio_filepath'])
    assert (rate, len(sound)) == (8000, 1000 * len(entry['text']))
    assert entry['duration'] == round(len(sound) / rate, 3)
    assert entry['speaker'] in ('flite:slt', 'espeak-ng:en-us+f2')
  left = {path.suffix for path in (tmp_path / 'out').rglob('*') if path.is_file()}
  assert left == {'.flac', '.jsonl'}


def test_text_goes_to_the_input_and_never_on_the_command_line(
  engines, voices, tmp_path
):
  synthesize(LINES, voices, tmp_path / 'out', workers=1)
  found = calls(engines)
  assert Counter(text for _, text in found) == Counter(LINES)
  for arguments, text in found:
    assert not any(text in argument for argument in arguments)


def test_the_plan_is_a_function_of_seed_and_line_number(voices):
  first = assign_voices(LINES, voices, 0, 0.15)
  assert assign_voices(LINES, voices, 0, 0.15) == first
  assert assign_voices(LINES + ['one more'], voices, 0, 0.15)[: len(LINES)] == first
  assert assign_voices(LINES, voices, 1, 0.15) != first
  assert all(0.85 <= x <= 1.15 for line in first for x in (line.rate, line.pitch))
  assert {line.rate for line in assign_voices(LINES, voices, 0, 0.0)} == {1.0}
  many = Counter(line.voice for line in assign_voices(LINES * 40, voices, 0, 0.15))
  assert min(many[voice] for voice in voices) > 70


def test_rate_and_pitch_reach_the_engines(engines, voices, tmp_path):
  synthesize(['Hello.'] * 8, voices, tmp_path / 'out')
  spoken = assign_voices(['Hello.'] * 8, voices, 0, 0.15)
  said = {
    arguments[-1 if '-o' in arguments else -2]: arguments
    for arguments, _ in calls(engines)
  }
  for line in spoken:
    (arguments,) = [a for path, a in said.items() if f'.{line.id}.wav' in path]
    if line.voice.engine == 'flite':
      assert f'duration_stretch={1 / line.rate:.3f}' in arguments
    else:
      assert arguments[2:6] == [
        '-s',
        f'{165 * line.rate:.0f}',
        '-p',
        f'{50 * line.pitch:.0f}',
      ]


def test_an_interrupted_run_continues(engines, voices, tmp_path):
  whole = synthesize(LINES, voices, tmp_path / 'whole')
  lines = [*LINES[:3], 'fail', *LINES[4:]]
  with pytest.raises(ChildProcessError, match="failed on 'fail': no such phoneme"):
    synthesize(lines, voices, tmp_path / 'out', workers=1)
  assert not (tmp_path / 'out/manifest.jsonl').exists()
  for path in engines.glob('*.calls'):
    path.unlink()
  for name in ('flite', 'espeak-ng'):  # mended
    (engines / name).write_text(ENGINE.replace("if 'fail' in text", 'if False'))
  again = synthesize(lines, voices, tmp_path / 'out', workers=1)
  # What failed, and what had not begun.
  assert 'fail' in {text for _, text in calls(engines)} <= {'fail', LINES[4]}
  for ours, theirs in zip(read(again), read(whole), strict=True):
    assert ours['speaker'] == theirs['speaker'] and ours['id'] == theirs['id']
  spoken = len(calls(engines))
  assert synthesize(lines, voices, tmp_path / 'out') == again
  assert len(calls(engines)) == spoken


def test_lines_may_be_added_but_not_changed(engines, voices, tmp_path):
  out = tmp_path / 'out'
  synthesize(LINES[:3], voices, out)
  assert len(read(synthesize(LINES, voices, out))) == len(LINES)
  assert len(read(synthesize(LINES[:2], voices, out))) == 2
  spoken = len(calls(engines))
  for lines, others, seed in (
    ([*LINES[:4], 'Another.'], voices, 0),
    (LINES, voices[:1], 0),
    (LINES, voices, 1),
  ):
    with pytest.raises(ValueError, match='choose another --output'):
      synthesize(lines, others, out, seed=seed)
  assert len(calls(engines)) == spoken


@pytest.mark.parametrize('text', ['nothing', 'mute'])
def test_an_engine_that_says_nothing_is_an_error(voices, tmp_path, text):
  with pytest.raises(ChildProcessError, match=f"said nothing to '{text}'"):
    synthesize([text], voices, tmp_path / 'out')


def test_an_engine_that_hangs_is_an_error(engines, voices, tmp_path, monkeypatch):
  monkeypatch.setattr('data_pipeline.engines.SECONDS_PER_LINE', 0.2)
  (engines / 'flite').write_text(f'#!{sys.executable}\nimport time; time.sleep(9)')
  with pytest.raises(ChildProcessError, match="flite took more than 0.2 s on 'Hm'"):
    synthesize(['Hm'], voices[:1], tmp_path / 'out')


def test_a_long_line_is_refused(voices, tmp_path):
  lines = ['ok', 'x' * (MAX_CHARACTERS + 1)]
  with pytest.raises(ValueError, match='line 2 has 1001 characters; the limit is 1000'):
    synthesize(lines, voices, tmp_path / 'out')


def test_piper_says_many_lines_in_one_process(engines, tmp_path, monkeypatch):
  monkeypatch.setattr('data_pipeline.synthesize.PIPER_LINES_PER_PROCESS', 2)
  voice = Voice('piper', str(engines / 'voice.onnx'))
  lines = ['one', 'three', 'fifteen', 'two\nlines', 'seven', 'eleven', 'x' * 20]
  manifest = synthesize(lines, [voice], tmp_path / 'out')
  for entry in read(manifest):
    info = soundfile.info(manifest.parent / entry['audio_filepath'])
    assert info.frames == 1000 * len(entry['text'])
    assert entry['speaker'] == 'piper:voice'
  with pytest.raises(ChildProcessError, match='piper made 1 files of 2 lines'):
    synthesize(['lose', 'this'], [voice], tmp_path / 'other')


@pytest.mark.parametrize(
  'written, error, message',
  [
    ('slt', ValueError, "voice 'slt' is unknown; write one of flite:NAME"),
    ('flite:', ValueError, 'is unknown'),
    ('say:anna', ValueError, 'is unknown'),
    ('piper:no.onnx', FileNotFoundError, 'there is no voice file no.onnx'),
  ],
)
def test_unknown_voices_are_refused(engines, written, error, message):
  with pytest.raises(error, match=message):
    Voice.parse(written)


def test_a_missing_engine_is_named(monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(FileNotFoundError, match='needs the program flite; install it'):
    Voice.parse('flite:slt')


def run(*arguments):
  command = [sys.executable, '-m', 'data_pipeline.synthesize', *map(str, arguments)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_program(engines, tmp_path):
  (tmp_path / 'lines.txt').write_text('\n'.join(['', *LINES, '  ', 'Good bye. ']))
  options = [f'--input={tmp_path}/lines.txt', f'--output={tmp_path}/out']
  done = run(*options, '--voices=flite:slt,espeak-ng:en')
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'synthesize: 6 lines in {tmp_path}/out/manifest.jsonl\n'
  assert read(tmp_path / 'out/manifest.jsonl')[-1]['text'] == 'Good bye.'


def test_program_says_errors_in_one_sentence(engines, tmp_path):
  (tmp_path / 'lines.txt').write_text('Please fail.')
  options = [f'--input={tmp_path}/lines.txt', f'--output={tmp_path}/out']
  done = run(*options, '--voices=flite:slt')
  assert done.returncode == 1
  assert done.stderr == "error: flite failed on 'Please fail.': no such phoneme\n"
