# SPDX-License-Identifier: Apache-2.0
"""Training as a whole: what it makes, and that no interruption changes it by a bit."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from acl_jax import build, train
from acl_jax.targets.store import Targets
from acl_jax.training.metrics import TIME_METRICS, MetricsWriter
from acl_jax.weights.adapter import load_adapter
from tests.tiny_world import load_config

ROOT = Path(__file__).parent.parent
CTC_STEPS, RESPONSE_STEPS = 10, 8
MEASURED = (*TIME_METRICS, 'padding_waste', 'llm_padding_waste')


def metrics(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  entries = [json.loads(line) for line in lines]
  return [{k: v for k, v in e.items() if k not in MEASURED} for e in entries]


@pytest.fixture(scope='module')
def uninterrupted(tiny_world, tmp_path_factory):
  """The workdir of a training without incident."""
  workdir = tmp_path_factory.mktemp('uninterrupted')
  train.train(load_config(tiny_world), workdir)
  return workdir


def assert_same(workdir, uninterrupted):
  name = 'adapter.safetensors'
  assert (workdir / name).read_bytes() == (uninterrupted / name).read_bytes()
  assert metrics(workdir) == metrics(uninterrupted)


def test_both_stages_leave_an_adapter_and_metrics(uninterrupted):
  assert load_adapter(uninterrupted / 'adapter.safetensors').config.llm_size == 24
  entries = metrics(uninterrupted)
  steps = [(entry['stage'], entry['step']) for entry in entries]
  assert steps == [
    *(('ctc', step) for step in range(1, CTC_STEPS + 1)),
    *(('response', step) for step in range(1, RESPONSE_STEPS + 1)),
  ]
  of_ctc = {'loss', 'grad_norm', 'ctc_tokens', 'ctc_letters'}
  assert set(entries[0]) == {'stage', 'step', *of_ctc}
  assert set(entries[-1]) == {*entries[0], 'response_nll', 'kl'}
  ctc = [entry['loss'] for entry in entries[:CTC_STEPS]]
  assert np.mean(ctc[-3:]) < np.mean(ctc[:3])


def interrupt(monkeypatch, stage, step, error):
  """Makes the training of a stage end within step number `step`."""
  write = MetricsWriter.write

  def die(self, number, total, values):
    write(self, number, total, values)
    if (self.stage, number) == (stage, step):
      raise error

  monkeypatch.setattr(MetricsWriter, 'write', die)
  return pytest.raises(type(error))


def test_a_killed_training_ends_as_if_it_had_not_been(
  tiny_world, uninterrupted, tmp_path, monkeypatch
):
  """Killed in either stage, between two checkpoints; then a checkpoint is damaged."""
  config = load_config(tiny_world)
  with monkeypatch.context() as patch, interrupt(patch, 'ctc', 5, KeyboardInterrupt()):
    train.train(config, tmp_path)
  assert [entry['step'] for entry in metrics(tmp_path)] == [1, 2, 3, 4, 5]
  with monkeypatch.context() as patch, interrupt(patch, 'response', 8, OSError('full')):
    train.train(config, tmp_path)
  newest = [p for p in (tmp_path / 'response/6').rglob('*') if p.is_file()]
  newest = max(newest, key=lambda path: path.stat().st_size)
  content = bytearray(newest.read_bytes())
  content[len(content) // 2] ^= 1
  newest.write_bytes(content)
  train.train(config, tmp_path)
  assert_same(tmp_path, uninterrupted)
  assert (tmp_path / 'response-broken').exists()


def test_a_finished_training_is_not_repeated(
  tiny_world, uninterrupted, monkeypatch, capsys
):
  def never(*args, **kwargs):
    raise AssertionError('a step was taken')

  before = (uninterrupted / 'adapter.safetensors').read_bytes()
  monkeypatch.setattr(train.step, 'train_step', never)
  train.train(load_config(tiny_world), uninterrupted)
  assert (uninterrupted / 'adapter.safetensors').read_bytes() == before
  out = capsys.readouterr().out
  assert 'ctc: continues at step 10 of 10' in out
  assert 'response: continues at step 8 of 8' in out


def test_a_loss_that_is_no_number_is_never_kept(tiny_world, tmp_path):
  changes = {'ctc.peak_lr': 1e38, 'ctc.save_every': 1, 'ctc.log_every': 1000}
  config = load_config(tiny_world, **changes)
  with pytest.raises(FloatingPointError, match='of stage ctc is (nan|inf) at step'):
    train.train(config, tmp_path)
  failed = metrics(tmp_path)[-1]['step']
  kept = [int(path.name) for path in (tmp_path / 'ctc').iterdir() if path.is_dir()]
  assert max(kept) < failed


def test_a_stride_adapter_has_the_response_stage_only(tiny_world, tmp_path, caplog):
  config = load_config(tiny_world, **{'response.steps': 2})
  config.adapter = dict(kind='stride', stack=3, hidden_size=16)
  with caplog.at_level(logging.WARNING, 'absl'):
    train.train(config, tmp_path)
  assert {entry['stage'] for entry in metrics(tmp_path)} == {'response'}
  assert '1 of 9 recordings are left out' in caplog.text
  assert load_adapter(tmp_path / 'adapter.safetensors').config.stack == 3


def test_an_encoder_that_trains_is_saved_and_found(tiny_world, tmp_path, monkeypatch):
  """Interrupted, continued, loaded by its workdir, and a place to start from."""
  few = {'encoder.trains': True, 'ctc.steps': 4, 'response.steps': 0}
  config = load_config(tiny_world, **few)
  with monkeypatch.context() as patch, interrupt(patch, 'ctc', 4, KeyboardInterrupt()):
    train.train(config, tmp_path / 'a')
  model = train.train(config, tmp_path / 'a')
  whole = train.train(config, tmp_path / 'b')
  jax.tree.map(np.testing.assert_array_equal, model.encoder, whole.encoder)
  found = build.load_model(config, str(tmp_path / 'a'))
  jax.tree.map(np.testing.assert_array_equal, found.encoder, model.encoder)
  before = build.load_encoder(config)
  assert (found.encoder.conv1.weight[...] != before.conv1.weight[...]).any()
  nothing = {'init_from': str(tmp_path / 'a'), 'ctc.steps': 0}
  again = train.train(load_config(tiny_world, **(few | nothing)), tmp_path / 'c')
  jax.tree.map(np.testing.assert_array_equal, again.encoder, model.encoder)


def test_it_may_start_from_another_training(tiny_world, uninterrupted, tmp_path):
  changes = {'init_from': str(uninterrupted), 'ctc.steps': 0, 'response.steps': 0}
  train.train(load_config(tiny_world, **changes), tmp_path)
  name = 'adapter.safetensors'
  assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_targets_of_other_recordings_are_refused(tiny_world, tmp_path):
  folder = tmp_path / 'targets'
  folder.mkdir()
  for path in (tiny_world / 'targets').iterdir():
    text = path.read_bytes().replace(b'"u', b'"x')
    (folder / path.name).write_bytes(text)
  config = load_config(tiny_world, **{'data.targets': str(folder), 'ctc.steps': 0})
  with pytest.raises(ValueError, match=f'{folder}: no response to any recording'):
    train.train(config, tmp_path / 'out')


def test_prompts_beyond_the_context_are_refused(tiny_world, tmp_path, monkeypatch):
  config = load_config(tiny_world, **{'ctc.steps': 0})
  with (
    monkeypatch.context() as patch,
    pytest.raises(
      ValueError, match=r'a prompt has up to \d+ positions; the LLM reads 256'
    ),
  ):
    long = lambda _, ids: (np.full(len(ids), 240), ['{}'] * len(ids))  # noqa: E731
    patch.setattr(Targets, 'lengths', long)
    train.train(config, tmp_path)


@pytest.mark.parametrize('key', ['llm', 'template'])
def test_targets_that_were_made_otherwise_are_refused(tiny_world, tmp_path, key):
  folder = tmp_path / 'targets'
  shutil.copytree(tiny_world / 'targets', folder)
  provenance = json.loads((folder / 'provenance.json').read_text())
  provenance[key]['sha256'] = 'f00'
  (folder / 'provenance.json').write_text(json.dumps(provenance))
  config = load_config(tiny_world, **{'data.targets': str(folder), 'ctc.steps': 0})
  with pytest.raises(
    ValueError, match=f'{folder}: holds targets of another {key}.sha256, "f00", not of '
  ):
    train.train(config, tmp_path / 'out')


def test_a_whisper_that_trains_hears_one_recording_a_row(tiny_world, tmp_path):
  config = load_config(tiny_world)
  config.data.row_tokens = 90
  config.data.row_frames, config.encoder.trains = 60, True
  with pytest.raises(ValueError, match='row_frames: a Whisper encoder that trains'):
    train.train(config, tmp_path)


def test_frozen_frames_and_prompts_may_share_rows(tiny_world, tmp_path):
  config = load_config(tiny_world, **{'response.steps': 6})
  config.data.row_tokens = 90
  config.data.row_frames = 60
  train.train(config, tmp_path)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  last = {entry['stage']: entry for entry in found}
  assert last['ctc']['padding_waste'] < 1 and 'llm_padding_waste' not in last['ctc']
  assert last['response']['llm_padding_waste'] < 1
  first = next(entry for entry in found if entry['stage'] == 'ctc')
  assert last['ctc']['loss'] < first['loss']


def test_errors_are_said_in_one_sentence(tiny_world, tmp_path):
  command = [sys.executable, '-m', 'acl_jax.train', f'--workdir={tmp_path}']
  command += [f'--config={tiny_world}/config.py', '--config.data.train=nowhere']
  done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
  assert done.returncode == 1
  last = done.stderr.splitlines()[-1]
  assert last.startswith('error: nowhere/dataset.json: not found')
