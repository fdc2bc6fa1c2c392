# SPDX-License-Identifier: Apache-2.0
import json
from types import SimpleNamespace

import numpy as np
import pytest

from acl_jax.training.metrics import MetricsWriter, Throughput


@pytest.fixture
def metrics(tmp_path):
  made = MetricsWriter(tmp_path, 'ctc')
  yield made
  made.close()


def entries(tmp_path):
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_every_step_is_a_line_everywhere(metrics, tmp_path, capsys):
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


def test_a_restart_forgets_what_no_checkpoint_holds(metrics, tmp_path):
  for step in (2, 4, 6):
    metrics.write(step, 20, {'loss': 1.0})
  metrics.stage = 'response'
  metrics.write(9, 20, {'loss': 1.0})
  metrics.stage = 'ctc'
  metrics.forget_after(4)
  kept = [(entry['stage'], entry['step']) for entry in entries(tmp_path)]
  assert kept == [('ctc', 2), ('ctc', 4), ('response', 9)]


def test_half_a_line_of_a_killed_run_is_dropped(metrics, tmp_path):
  metrics.write(2, 20, {'loss': 1.0})
  with metrics.path.open('a') as file:
    file.write('{"stage": "ctc", "st')
  metrics.forget_after(9)
  assert [entry['step'] for entry in entries(tmp_path)] == [2]


def test_nothing_to_forget(metrics):
  metrics.forget_after(0)
  assert not metrics.path.exists()


def test_pace_counts_signal_and_padding():
  ids = np.asarray([[1] * 30 + [0] * 10, [2] * 20 + [0] * 20])
  sound = SimpleNamespace(segment_ids=ids)
  prompt = SimpleNamespace(segment_ids=np.asarray([[1, 1, 2, 0, 0, 0]]))
  pace = Throughput(0.02)
  pace.add(sound)
  pace.add((sound, SimpleNamespace(prompt=prompt)))
  rates = pace.take()
  assert rates['padding_waste'] == pytest.approx(1 - 100 / 160)
  assert rates['llm_padding_waste'] == pytest.approx(1 / 2)
  assert rates['audio_hours_per_second'] > 0
  assert pace.take() == {'audio_hours_per_second': 0}


def test_pace_continues_where_an_interrupted_run_stood():
  ids = np.asarray([[1] * 3 + [0] * 7])
  whole, first = Throughput(0.02), Throughput(0.02)
  for pace in (whole, whole, first):
    pace.add(SimpleNamespace(segment_ids=ids))
  second = Throughput(0.02, json.loads(json.dumps(first.counts())))
  second.add(SimpleNamespace(segment_ids=ids * 0 + 1))
  whole.add(SimpleNamespace(segment_ids=ids * 0 + 1))
  whole.add(SimpleNamespace(segment_ids=ids))
  second.add(SimpleNamespace(segment_ids=ids))
  whole.filled['padding_waste'] -= 3
  whole.places['padding_waste'] -= 10
  assert second.take()['padding_waste'] == whole.take()['padding_waste']
