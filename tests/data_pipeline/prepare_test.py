# SPDX-License-Identifier: Apache-2.0
import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from data_pipeline import audio, records
from data_pipeline.prepare import Settings, prepare

SMALL = Settings(shard_size=3, max_characters=50)


def content(folder):
  """Every file of a prepared folder, by name."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def add(manifest, **entry):
  with manifest.open('a') as file:
    file.write(json.dumps({'text': 'hi'} | entry) + '\n')


def test_what_is_written(corpus, tmp_path):
  info = prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  written = content(tmp_path / 'out')
  assert json.loads(written['dataset.json']) == info
  assert not {name for name in written if name.endswith('.tmp') or 'plan' in name}
  assert info['schema_version'] == 1 and info['sample_rate'] == 16_000
  assert info['examples'] == 7 and info['hours'] == pytest.approx(1.75 / 3600, abs=1e-6)
  assert info['seconds_histogram']['counts'] == [7] + [0] * 15
  assert [shard['examples'] for shard in info['shards']] == [3, 3, 1]
  for i, shard in enumerate(info['shards']):
    assert shard['file'] == f'data-0000{i}-of-00003.array_record'
    assert shard['sha256'] == hashlib.sha256(written[shard['file']]).hexdigest()
  lines = [json.loads(line) for line in written['index.jsonl'].splitlines()]
  assert lines[2] == {'id': 'u2', 'seconds': 0.2, 'text': 'Grüße 2'}
  data = records.Dataset(tmp_path / 'out')
  for i in range(7):
    expected = audio.read(corpus.parent / f'audio/{i}.flac')
    np.testing.assert_array_equal(data[i]['audio'], expected)


def test_same_input_same_bytes(corpus, tmp_path):
  for name, threads in (('one', 1), ('two', 5)):
    prepare('manifest', corpus, tmp_path / name, settings=SMALL, threads=threads)
  assert content(tmp_path / 'one') == content(tmp_path / 'two')


def test_a_stopped_run_goes_on(corpus, tmp_path, monkeypatch):
  prepare('manifest', corpus, tmp_path / 'whole', settings=SMALL)
  read = audio.read
  seen = []

  def stop_at_five(path, **options):
    seen.append(path.stem)
    if path.stem == '5' and seen.count('5') == 1:
      raise KeyboardInterrupt
    return read(path, **options)

  monkeypatch.setattr(audio, 'read', stop_at_five)
  with pytest.raises(KeyboardInterrupt):
    prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  assert not (tmp_path / 'out/dataset.json').exists()
  seen[:] = ['5']
  prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  assert sorted(seen[1:]) == ['3', '4', '5', '6']  # the first shard was done
  assert content(tmp_path / 'out') == content(tmp_path / 'whole')


def test_a_finished_folder_is_reused(corpus, tmp_path, monkeypatch):
  out = tmp_path / 'out'
  info = prepare('manifest', corpus, out, settings=SMALL)
  before = content(out)
  monkeypatch.setattr(audio, 'read', None)  # would fail
  assert prepare('manifest', corpus, out, settings=SMALL) == info
  assert content(out) == before


@pytest.mark.parametrize(
  'change, message',
  [
    ('text', '00002-of-00003.array_record: was made from other utterances or files'),
    ('audio', '00001-of-00003.array_record: was made from other .*manifest.jsonl has'),
    ('settings', 'out: was begun with max_characters=50, not 51'),
    ('encoding', "out: was begun with encoding='flac', not 'int16'"),
    ('more', '00000-of-00003.array_record: is not one of the 4 shards'),
    ('fewer', '00000-of-00003.array_record: is not one of the 1 shards'),
  ],
)
def test_a_folder_of_something_else_is_left_alone(corpus, tmp_path, change, message):
  out, settings = tmp_path / 'out', SMALL
  prepare('manifest', corpus, out, settings=SMALL)
  before = content(out)
  match change:
    case 'text':
      corpus.write_text(corpus.read_text().replace('Antwort 6', 'Antwort 7'))
    case 'audio':
      os.utime(corpus.parent / 'audio/3.flac', (1, 1))
    case 'settings':
      settings = dataclasses.replace(SMALL, max_characters=51)
    case 'encoding':
      settings = dataclasses.replace(SMALL, encoding='int16')
    case 'more':
      for i in range(3):
        add(corpus, audio_filepath='audio/0.flac', id=f'v{i}')
    case 'fewer':
      corpus.write_text(corpus.read_text().splitlines()[0])
  with pytest.raises(ValueError, match=f'{message}.*; delete .*out or choose another'):
    prepare('manifest', corpus, out, settings=settings)
  assert content(out) == before


@pytest.fixture
def damaged(corpus, record):
  """The corpus and nine utterances that cannot be used."""
  folder = corpus.parent
  (folder / 'empty.wav').touch()
  (folder / 'text.wav').write_text('this is no sound')
  whole = record(folder / 'whole.wav').read_bytes()
  (folder / 'half.wav').write_bytes(whole[: len(whole) // 2])
  record(folder / 'adpcm.wav', 'IMA_ADPCM')
  for name in ('missing', 'empty', 'text', 'half', 'adpcm'):
    add(corpus, audio_filepath=f'{name}.wav')
  add(corpus, audio_filepath='whole.wav', id='u0')
  add(corpus, audio_filepath='whole.wav', id='silent', text=' \t')
  add(corpus, audio_filepath='whole.wav', id='long', text='x' * 51)
  with corpus.open('a') as file:
    file.write('{"audio_filepath"\n')
  return corpus


def test_what_cannot_be_used_is_counted_and_listed(damaged, tmp_path, capsys):
  out = tmp_path / 'out'
  info = prepare('manifest', damaged, out, settings=SMALL, max_skipped=0.6)
  assert info['examples'] == 7 == len(records.Dataset(out))
  assert info['skipped_by_field'] == {
    'content': 3, 'text': 2, 'file': 1, 'codec': 1, 'id': 1, 'line': 1
  }  # fmt: skip
  listed = (out / 'skipped.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in listed] == info['skipped']
  reasons = [entry['reason'] for entry in info['skipped']]
  for part in (
    'missing.wav: file cannot be read (No such file',
    'empty.wav: content is empty (0 bytes)',
    'text.wav: content is not WAV, FLAC, Ogg or MP3',
    'half.wav: content is truncated: ',
    'adpcm.wav: codec is WAV format 0x0011',
    "whole.wav: id 'u0' is not the first",
    'whole.wav: text is empty',
    'whole.wav: text has 51 characters, limit 50',
    'manifest.jsonl line 16: line is not JSON',
  ):
    assert sum(part in reason for reason in reasons) == 1, part
  printed = capsys.readouterr().err
  assert all(reason in printed for reason in reasons)
  assert 'prepare: 16 of 16\n' in printed


def test_too_many_skips_fail_at_the_end_and_lose_nothing(
  damaged, tmp_path, monkeypatch
):
  out = tmp_path / 'out'
  message = r'9 of 16 utterances cannot be used .*limit 50.0%: .*raise --max_skipped'
  with pytest.raises(ValueError, match=message):
    prepare('manifest', damaged, out, settings=SMALL, max_skipped=0.5)
  assert not (out / 'dataset.json').exists()
  monkeypatch.setattr(audio, 'read', None)  # would fail: everything is done
  prepare('manifest', damaged, out, settings=SMALL, max_skipped=0.6)
  assert len(records.Dataset(out)) == 7


def test_a_mended_file_remakes_its_shard_alone(corpus, tmp_path, record):
  path = corpus.parent / 'audio/4.flac'
  good = path.read_bytes()
  path.write_bytes(good[:500])
  with pytest.raises(ValueError, match='1 of 7'):
    prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  first = tmp_path / 'out/data-00000-of-00003.array_record'
  made = first.stat().st_mtime_ns
  path.write_bytes(good)
  info = prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  assert info['examples'] == 7 and first.stat().st_mtime_ns == made


def test_nothing_usable(tmp_path):
  with pytest.raises(ValueError, match='no utterances in the layout'):
    prepare('folder', tmp_path, tmp_path / 'out')
  (tmp_path / 'm.jsonl').write_text('{"audio_filepath": "a.wav", "text": "hi"}')
  with pytest.raises(ValueError, match='1 of 1 utterances cannot be used'):
    prepare('manifest', tmp_path / 'm.jsonl', tmp_path / 'out', max_skipped=1.0)


def _environment():
  return os.environ | {'PYTHONPATH': os.getcwd()}


def test_settings_cannot_change_in_the_middle(corpus, tmp_path, record):
  record(corpus.parent / 'audio/4.flac', 'PCM_16', seconds=0.01)
  with pytest.raises(ValueError, match='1 of 7'):
    prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  smaller = dataclasses.replace(SMALL, shard_size=2)
  with pytest.raises(ValueError, match='out: was begun with shard_size=3, not 2'):
    prepare('manifest', corpus, tmp_path / 'out', settings=smaller)


@pytest.mark.parametrize('bad', [False, True])
def test_program(corpus, tmp_path, bad):
  if bad:
    add(corpus, audio_filepath='none.wav')
  command = [sys.executable, '-m', 'data_pipeline.prepare', f'--input={corpus}']
  command.append(f'--output={tmp_path / "out"}')
  done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
  if bad:
    assert done.returncode == 1
    *_, listed, last = done.stderr.splitlines()
    assert listed.startswith('prepare: skipped none: ') and 'none.wav: file' in listed
    assert last.startswith('error: 1 of 8 utterances cannot be used')
  else:
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('prepare: 7 utterances, 0.00 hours, 0 skipped, in ')
    assert 'prepare: 7 of 7\n' in done.stderr
