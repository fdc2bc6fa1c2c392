# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_pipeline import inspect, records, single_record
from data_pipeline.prepare import Settings, prepare


@pytest.fixture
def prepared(corpus, tmp_path):
  prepare('manifest', corpus, tmp_path / 'out', settings=Settings(shard_size=3))
  return tmp_path / 'out'


def run(*arguments, **environment):
  command = [sys.executable, '-m', 'data_pipeline.inspect', *map(str, arguments)]
  env = os.environ | {'PYTHONPATH': os.getcwd()} | environment
  return subprocess.run(command, env=env, capture_output=True, text=True)


def test_the_summary_in_a_log(prepared):
  done = run(prepared)
  assert done.returncode == 0, done.stderr
  facts = dict(line.split(None, 1) for line in done.stdout.splitlines()[:9])
  assert facts['utterances'] == '7'
  assert facts['speakers'] == 'anna 7' and facts['languages'] == 'de 7'
  assert facts['characters'].startswith('49, ') and facts['words'].startswith('14, ')
  assert facts['skipped'] == '0' and facts['shards'].startswith('3 of ')
  assert '\x1b' not in done.stdout
  bars = [line for line in done.stdout.splitlines() if '#' in line]
  assert sum(int(line.rsplit(None, 1)[1]) for line in bars) == 7


def test_a_count_from_a_sample_says_so(prepared, monkeypatch):
  dataset = records.Dataset(prepared)
  assert 'sample' not in inspect.facts(prepared, dataset)['speakers']
  monkeypatch.setattr(inspect, 'SAMPLE', 2)
  facts = inspect.facts(prepared, dataset)
  assert facts['speakers'] == 'anna 2 (in a sample of 2)'


lengths = st.floats(0.03125, 1e5, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=lengths))
def test_a_histogram_counts_all_in_few_bins(seconds):
  rows = inspect.histogram(seconds)
  assert sum(count for _, count in rows) == len(seconds)
  assert len(rows) <= inspect.BINS and rows[-1][1] > 0


def test_check_of_what_is_whole(prepared):
  done = run(prepared, '--check')
  assert done.returncode == 0 and 'is right' in done.stdout
  assert 'records: 7 of 7' in done.stderr
  assert not list(inspect.check(prepared))


def test_check_names_every_shard_and_record_that_is_broken(prepared):
  shards = sorted(prepared.glob('*.array_record'))
  for shard in (shards[0], shards[2]):
    data = bytearray(shard.read_bytes())
    place = data.index(b'ACLR') + 300
    data[place] ^= 1
    shard.write_bytes(data)
  done = run(prepared, '--check')
  assert done.returncode == 1
  broken = [line for line in done.stdout.splitlines() if line.startswith('broken: ')]
  assert [line.split(': ')[1] for line in broken] == [
    str(shard) for shard in (shards[0], shards[2], shards[0], shards[2])
  ]
  assert all('sha256 is' in line for line in broken[:2])
  assert all(': record 0: ' in line for line in broken[2:])
  assert done.stderr.splitlines()[-1] == f'error: {prepared}: 4 faults, listed above'


def test_check_compares_with_the_index(prepared):
  path = prepared / 'index.jsonl'
  first, *others = path.read_text().splitlines()
  changed = json.dumps(json.loads(first) | {'text': 'other'})
  path.write_text('\n'.join([changed, *others]) + '\n')
  (fault,) = inspect.check(prepared)
  assert fault.startswith("number 0, id 'u0': ") and 'index.jsonl' in fault


def test_a_missing_shard_is_named_twice_over(prepared):
  path = prepared / 'data-00001-of-00003.array_record'
  path.unlink()
  found = inspect.check(prepared)
  assert next(found) == f'{path}: cannot be read (No such file or directory)'
  with pytest.raises(records.RecordError, match='00001-of-00003.* is missing'):
    next(found)


def test_one_record(prepared, tmp_path):
  wav, png = tmp_path / 'a.wav', tmp_path / 'a.png'
  done = run(prepared, '--record=4', f'--wav={wav}', f'--plot={png}')
  assert done.returncode == 0, done.stderr
  facts = dict(line.split(None, 1) for line in done.stdout.splitlines())
  assert facts['id'] == 'u4' and facts['text'] == 'Grüße 4' and facts['number'] == '4'
  sound = records.Dataset(prepared)[4]['audio']
  written, rate = soundfile.read(wav, dtype='float32')
  assert rate == 16_000
  np.testing.assert_array_equal(written, sound)
  assert png.read_bytes()[1:4] == b'PNG'


@pytest.mark.parametrize('which', ['u7', '7', '-1', '', '１x'])
def test_no_such_record(prepared, which):
  with pytest.raises(ValueError, match=r"id \(the first is 'u0'\) nor .* from 0 to 6"):
    single_record.find(records.Dataset(prepared), which)


def test_a_record_by_its_id(prepared):
  assert single_record.find(records.Dataset(prepared), 'u4')['number'] == 4


def test_an_id_goes_before_a_number(prepared, monkeypatch):
  dataset = records.Dataset(prepared)
  dataset.ids[5] = '0'
  record = lambda self, index: {'id': self.ids[index]}  # noqa: E731
  monkeypatch.setattr(records.Dataset, '__getitem__', record)
  assert single_record.find(dataset, '0') == {'number': 5, 'id': '0'}
  assert single_record.find(dataset, '1')['number'] == 1


def test_playing(prepared, tmp_path):
  played = tmp_path / 'played.wav'
  player = tmp_path / 'bin' / 'aplay'
  player.parent.mkdir()
  player.write_text(f'#!/bin/sh\n/bin/cp "$2" {played}\n')
  player.chmod(0o755)
  done = run(prepared, '--record=u2', '--play', PATH=str(player.parent))
  assert done.returncode == 0, done.stderr
  sound = records.Dataset(prepared)[2]['audio']
  np.testing.assert_array_equal(soundfile.read(played, dtype='float32')[0], sound)
  player.write_text('#!/bin/sh\necho no device >&2\nexit 3\n')
  done = run(prepared, '--record=u2', '--play', PATH=str(player.parent))
  assert done.returncode == 1
  assert done.stderr == 'error: aplay cannot play the record: no device\n'
  player.unlink()
  done = run(prepared, '--record=u2', '--play', PATH=str(player.parent))
  assert done.returncode == 1 and 'needs one of ffplay, aplay, afplay' in done.stderr


def test_nothing_moves_the_cursor_of_the_terminal():
  assert '\x1b' not in inspect.printable('a\x1b[2J\x07\u202eb')
  assert inspect.printable('Grüße 你好') == 'Grüße 你好'


@pytest.mark.parametrize(
  'arguments, message',
  [
    ((), 'DIR is missing'),
    (('a', 'b'), 'b is not a flag'),
    (('none',), 'none/dataset.json: not found; is this a prepared folder?'),
    (('none', '--play'), 'need a --record'),
  ],
)
def test_what_is_asked_for_wrongly(arguments, message):
  done = run(*arguments)
  assert done.returncode == 1 and message in done.stderr
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1


@pytest.mark.parametrize('text', ['{}', '[]', '{"shards": [{"file": 1}]}', 'x'])
def test_a_damaged_dataset_json(tmp_path, text):
  (tmp_path / 'dataset.json').write_text(text)
  with pytest.raises(records.RecordError, match='dataset.json: cannot be read'):
    inspect.shards(tmp_path)
