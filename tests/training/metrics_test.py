# SPDX-License-Identifier: Apache-2.0
import json
from types import SimpleNamespace

import numpy as np
import pytest

from acl_jax.training.metrics import MetricsWriter, Throughput


@pytest.fixture
def metrics(tmp_path):
  writer = MetricsWriter(tmp_path, 'ctc')
  yield writer
  writer.close()


def entries(tmp_path):
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_every_step_is_written_everywhere(metrics, tmp_path, capsys):
  metrics.write(3, 20, {'loss': 2.5, 'grad_norm': 0.123456})
  metrics.write(6, 20, {'loss': 1.5, 'grad_norm': 0.2})
  assert entries(tmp_path) == [
    {'stage': 'ctc', 'step': 3, 'loss': 2.5, 'grad_norm': 0.123456},
    {'stage': 'ctc', 'step': 6, 'loss': 1.5, 'grad_norm': 0.2},
  ]
  assert capsys.readouterr().out.splitlines() == [
    'ctc 3/20  loss 2.5  grad_norm 0.1235',
    'ctc 6/20  loss 1.5  grad_norm 0.2',
  ]
  metrics.board.flush()
  assert list((tmp_path / 'tensorboard/ctc').glob('events*'))


def test_a_restart_deletes_entries_after_its_checkpoint(metrics, tmp_path):
  for step in (2, 4, 6):
    metrics.write(step, 20, {'loss': 1.0})
  metrics.stage = 'response'
  metrics.write(9, 20, {'loss': 1.0})
  metrics.stage = 'ctc'
  metrics.truncate_after(4)
  kept = [(entry['stage'], entry['step']) for entry in entries(tmp_path)]
  assert kept == [('ctc', 2), ('ctc', 4), ('response', 9)]


def test_an_incomplete_line_of_a_killed_run_is_deleted(metrics, tmp_path):
  metrics.write(2, 20, {'loss': 1.0})
  with metrics.path.open('a') as file:
    file.write('{"stage": "ctc", "st')
  metrics.truncate_after(9)
  assert [entry['step'] for entry in entries(tmp_path)] == [2]


def test_truncating_without_a_file_creates_none(metrics):
  metrics.truncate_after(0)
  assert not metrics.path.exists()


def test_throughput_measures_audio_and_padding():
  ids = np.asarray([[1] * 30 + [0] * 10, [2] * 20 + [0] * 20])
  audio = SimpleNamespace(segment_ids=ids)
  prompt = SimpleNamespace(segment_ids=np.asarray([[1, 1, 2, 0, 0, 0]]))
  throughput = Throughput(0.02)
  throughput.add(audio)
  throughput.add((audio, SimpleNamespace(prompt=prompt)))
  rates = throughput.metrics()
  assert rates['padding_waste'] == pytest.approx(1 - 100 / 160)
  assert rates['llm_padding_waste'] == pytest.approx(1 / 2)
  assert rates['audio_hours_per_second'] > 0
  assert throughput.metrics() == {'audio_hours_per_second': 0}


def test_throughput_continues_the_counts_of_an_interrupted_run():
  ids = np.asarray([[1] * 3 + [0] * 7])
  whole, first = Throughput(0.02), Throughput(0.02)
  for throughput in (whole, whole, first):
    throughput.add(SimpleNamespace(segment_ids=ids))
  second = Throughput(0.02, json.loads(json.dumps(first.counts())))
  second.add(SimpleNamespace(segment_ids=ids * 0 + 1))
  whole.add(SimpleNamespace(segment_ids=ids * 0 + 1))
  whole.add(SimpleNamespace(segment_ids=ids))
  second.add(SimpleNamespace(segment_ids=ids))
  whole.num_real['padding_waste'] -= 3
  whole.num_total['padding_waste'] -= 10
  assert second.metrics()['padding_waste'] == whole.metrics()['padding_waste']
