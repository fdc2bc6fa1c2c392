# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_pipeline import inspect, records, single_record
from data_pipeline.id_hashes import hash_ids

PROGRAM = 'data_pipeline.inspect'


@pytest.mark.full
def test_program(prepared, start_program):
  done = start_program(PROGRAM, prepared)
  assert done.returncode == 0, done.stderr
  summary = dict(line.split(None, 1) for line in done.stdout.splitlines()[:9])
  assert summary['utterances'] == '7'
  assert summary['speakers'] == 'anna 7' and summary['languages'] == 'de 7'
  assert summary['characters'].startswith('49, ')
  assert summary['words'].startswith('14, ')
  assert summary['skipped'] == '0' and summary['shards'].startswith('3 of ')
  assert '\x1b' not in done.stdout
  bars = [line for line in done.stdout.splitlines() if '#' in line]
  assert sum(int(line.rsplit(None, 1)[1]) for line in bars) == 7


def test_counts_of_a_sample_are_marked(prepared, monkeypatch):
  dataset = records.Dataset(prepared)
  assert 'sample' not in inspect.summarize(prepared, dataset)['speakers']
  monkeypatch.setattr(inspect, 'SAMPLE_SIZE', 2)
  summary = inspect.summarize(prepared, dataset)
  assert summary['speakers'] == 'anna 2 (in a sample of 2)'


lengths = st.floats(0.03125, 1e5, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=lengths))
def test_histogram_counts_all_lengths_in_few_bins(seconds):
  rows = inspect.histogram(seconds)
  assert sum(count for _, count in rows) == len(seconds)
  assert len(rows) <= inspect.MAX_BINS and rows[-1][1] > 0


@pytest.mark.full
def test_check_of_an_intact_folder(prepared, run_program):
  done = run_program(PROGRAM, prepared, '--check')
  assert done.returncode == 0 and done.stdout.startswith('check: ')
  assert 'records: 7 of 7' in done.stderr
  assert not list(inspect.find_faults(prepared))


@pytest.mark.full
def test_check_lists_every_broken_shard_and_record(prepared, run_program):
  shards = sorted(prepared.glob('*.array_record'))
  for shard in (shards[0], shards[2]):
    data = bytearray(shard.read_bytes())
    data[data.index(b'ACLR') + 300] ^= 1
    shard.write_bytes(data)
  done = run_program(PROGRAM, prepared, '--check')
  assert done.returncode == 1
  broken = [line for line in done.stdout.splitlines() if line.startswith('broken: ')]
  assert [line.split(': ')[1] for line in broken] == [
    str(shard) for shard in (shards[0], shards[2], shards[0], shards[2])
  ]
  assert all('sha256 is' in line for line in broken[:2])
  assert all(': record 0: ' in line for line in broken[2:])
  assert done.stderr.splitlines()[-1].startswith(f'error: {prepared}: 4 faults')


def test_check_compares_with_the_index(prepared):
  path = prepared / 'index.jsonl'
  first, *others = path.read_text().splitlines()
  changed = json.dumps(json.loads(first) | {'text': 'other'})
  path.write_text('\n'.join([changed, *others]) + '\n')
  (fault,) = inspect.find_faults(prepared)
  assert fault.startswith("number 0, id 'u0': ") and 'index.jsonl' in fault


def test_missing_shard_is_reported_for_checksums_and_records(prepared):
  path = prepared / 'data-00001-of-00003.array_record'
  path.unlink()
  faults = inspect.find_faults(prepared)
  message = next(faults)
  assert message.startswith(f'{path}: ') and 'No such file or directory' in message
  with pytest.raises(records.RecordError, match='00001-of-00003'):
    next(faults)


@pytest.mark.full
def test_record_to_wav_and_plot(prepared, tmp_path, run_program):
  wav, png = tmp_path / 'a.wav', tmp_path / 'a.png'
  done = run_program(PROGRAM, prepared, '--record=4', f'--wav={wav}', f'--plot={png}')
  assert done.returncode == 0, done.stderr
  fields = dict(line.split(None, 1) for line in done.stdout.splitlines())
  assert fields['id'] == 'u4' and fields['text'] == 'Grüße 4'
  assert fields['number'] == '4'
  written, rate = soundfile.read(wav, dtype='float32')
  assert rate == 16_000
  np.testing.assert_array_equal(written, records.Dataset(prepared)[4]['audio'])
  assert png.read_bytes()[1:4] == b'PNG'


@pytest.mark.parametrize('key', ['u7', '7', '-1', '', '１x'])
def test_missing_record(prepared, key):
  with pytest.raises(ValueError, match=rf"--record={key} .*'u0'.* 0 to 6"):
    single_record.find_utterance(records.Dataset(prepared), key)


def test_record_by_id(prepared):
  assert single_record.find_utterance(records.Dataset(prepared), 'u4')['number'] == 4


def test_id_has_precedence_over_number(prepared, monkeypatch):
  dataset = records.Dataset(prepared)
  dataset.ids = [*dataset.ids]
  dataset.ids[5] = '0'
  dataset.lines.id_hashes = hash_ids(dataset.ids)
  record = lambda self, index: {'id': self.ids[index]}  # noqa: E731
  monkeypatch.setattr(records.Dataset, '__getitem__', record)
  assert single_record.find_utterance(dataset, '0') == {'number': 5, 'id': '0'}
  assert single_record.find_utterance(dataset, '1')['number'] == 1


@pytest.mark.full
def test_play(prepared, tmp_path, monkeypatch, run_program):
  played = tmp_path / 'played.wav'
  player = tmp_path / 'bin' / 'aplay'
  player.parent.mkdir()
  player.write_text(f'#!/bin/sh\n/bin/cp "$2" {played}\n')
  player.chmod(0o755)
  monkeypatch.setenv('PATH', str(player.parent))
  arguments = (prepared, '--record=u2', '--play')
  done = run_program(PROGRAM, *arguments)
  assert done.returncode == 0, done.stderr
  audio = records.Dataset(prepared)[2]['audio']
  np.testing.assert_array_equal(soundfile.read(played, dtype='float32')[0], audio)
  player.write_text('#!/bin/sh\necho no device >&2\nexit 3\n')
  done = run_program(PROGRAM, *arguments)
  assert done.returncode == 1
  assert done.stderr.startswith('error: aplay ') and done.stderr.count('\n') == 1
  assert done.stderr.endswith(': no device\n')
  player.unlink()
  done = run_program(PROGRAM, *arguments)
  assert done.returncode == 1 and 'ffplay, aplay, afplay' in done.stderr


def test_control_characters_are_not_printed():
  assert '\x1b' not in inspect.printable('a\x1b[2J\x07\u202eb')
  assert inspect.printable('Grüße 你好') == 'Grüße 你好'


@pytest.mark.full
@pytest.mark.parametrize(
  'arguments, message',
  [
    ((), 'DIR'),
    (('a', 'b'), 'b is not a flag'),
    (('none',), 'none/dataset.json: not found'),
    (('none', '--play'), '--record'),
  ],
)
def test_wrong_arguments(arguments, message, run_program):
  done = run_program(PROGRAM, *arguments)
  assert done.returncode == 1 and message in done.stderr
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1


@pytest.mark.parametrize('text', ['{}', '[]', '{"shards": [{"file": 1}]}', 'x'])
def test_damaged_dataset_json(tmp_path, text):
  (tmp_path / 'dataset.json').write_text(text)
  with pytest.raises(records.RecordError, match='dataset.json'):
    inspect.list_shards(tmp_path)
