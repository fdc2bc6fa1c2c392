# SPDX-License-Identifier: Apache-2.0
"""The program `train`: its outputs, which no interruption changes by a bit."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from acl_jax import build, train
from acl_jax.models.lora import merge_lora
from acl_jax.runtime import locks
from acl_jax.sharding.mesh import make_mesh
from acl_jax.training import step
from acl_jax.training.metrics import TIME_METRICS, MetricsWriter
from acl_jax.weights.adapter import load_adapter
from tests.tiny_world import load_config

ROOT = Path(__file__).parent.parent
CTC_STEPS, RESPONSE_STEPS = 10, 8
ADAPTER = 'adapter.safetensors'
NO_LETTERS = {'adapter.letter_layers': 0}  # halves the compile time
PADDING_METRICS = ('padding_waste', 'llm_padding_waste')


def read_metrics(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def read_losses(workdir):
  """The metrics that depend on the parameters."""
  excluded = (*TIME_METRICS, *PADDING_METRICS)
  return [
    {name: value for name, value in entry.items() if name not in excluded}
    for entry in read_metrics(workdir)
  ]


@pytest.fixture(scope='module', autouse=True)
def mesh():
  """A mesh of one device, as in the program.

  Restored arrays then have the sharding of new ones, and share their compilations.
  """
  with jax.set_mesh(make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])):
    yield


@pytest.fixture(scope='module')
def uninterrupted(tiny_world, tmp_path_factory):
  """The workdir of a training without interruption."""
  workdir = tmp_path_factory.mktemp('uninterrupted')
  train.train(load_config(tiny_world), workdir)
  return workdir


def test_both_stages_write_the_adapter_and_metrics(uninterrupted):
  assert load_adapter(uninterrupted / ADAPTER).config.llm_size == 24
  entries = read_losses(uninterrupted)
  steps = [(entry['stage'], entry['step']) for entry in entries]
  assert steps == [
    *(('ctc', step) for step in range(1, CTC_STEPS + 1)),
    *(('response', step) for step in range(1, RESPONSE_STEPS + 1)),
  ]
  ctc_metrics = {'loss', 'grad_norm', 'ctc_tokens', 'ctc_letters'}
  assert set(entries[0]) == {'stage', 'step', *ctc_metrics}
  assert set(entries[-1]) == {*entries[0], 'response_nll', 'kl'}
  ctc = [entry['loss'] for entry in entries[:CTC_STEPS]]
  assert np.mean(ctc[-3:]) < np.mean(ctc[:3])


def train_until(config, workdir, stage, step, error):
  """Train; the step raises `error` after its log line, before its checkpoint."""
  write = MetricsWriter.write

  def write_and_fail(self, number, total, values):
    write(self, number, total, values)
    if (self.stage, number) == (stage, step):
      raise error

  with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)):
    patch.setattr(MetricsWriter, 'write', write_and_fail)
    train.train(config, workdir)


def flip_a_bit(checkpoint):
  """Damage the largest file of a checkpoint."""
  files = [path for path in checkpoint.rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)


def test_interruptions_and_a_damaged_checkpoint_change_nothing(
  tiny_world, uninterrupted, tmp_path
):
  """Interrupted in both stages, between two checkpoints."""
  config = load_config(tiny_world)
  train_until(config, tmp_path, 'ctc', 5, KeyboardInterrupt())
  assert [entry['step'] for entry in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
  train_until(config, tmp_path, 'response', 8, OSError('full'))
  flip_a_bit(tmp_path / 'response/6')
  train.train(config, tmp_path)
  assert (tmp_path / ADAPTER).read_bytes() == (uninterrupted / ADAPTER).read_bytes()
  assert read_losses(tmp_path) == read_losses(uninterrupted)
  assert (tmp_path / 'response-broken').exists()


def test_a_second_training_in_the_same_folder_is_refused(tiny_world, uninterrupted):
  with locks.own_folder(uninterrupted):
    with pytest.raises(ValueError, match='is writing here; .* another --workdir'):
      train.train(load_config(tiny_world), uninterrupted)


def test_a_complete_training_is_not_repeated(
  tiny_world, uninterrupted, monkeypatch, capsys
):
  def refuse(*args, **kwargs):
    raise AssertionError('a step ran')

  before = (uninterrupted / ADAPTER).read_bytes()
  monkeypatch.setattr(step, 'train_step', refuse)
  train.train(load_config(tiny_world), uninterrupted)
  assert (uninterrupted / ADAPTER).read_bytes() == before
  out = capsys.readouterr().out
  assert 'ctc: continues at step 10 of 10' in out
  assert 'response: continues at step 8 of 8' in out


def test_non_finite_losses_are_not_saved(tiny_world, tmp_path):
  changes = {'ctc.peak_lr': 1e38, 'ctc.save_every': 1, 'ctc.log_every': 1000}
  config = load_config(tiny_world, **NO_LETTERS, **changes)
  with pytest.raises(FloatingPointError, match=r'\bctc\b.*\b(nan|inf)\b.*step \d'):
    train.train(config, tmp_path)
  failed = read_metrics(tmp_path)[-1]['step']
  saved = [int(path.name) for path in (tmp_path / 'ctc').iterdir() if path.is_dir()]
  assert max(saved) < failed


STRIDE = {'kind': 'stride', 'stack': 3, 'hidden_size': 16}


def test_a_stride_adapter_without_a_ctc_stage(tiny_world, tmp_path, caplog):
  changes = {'response.steps': 2, 'adapter': STRIDE, 'ctc': None}
  config = load_config(tiny_world, **changes)
  with caplog.at_level(logging.WARNING, 'absl'):
    train.train(config, tmp_path)
  assert {entry['stage'] for entry in read_metrics(tmp_path)} == {'response'}
  assert re.search(r'\b1 of 9 utterances\b', caplog.text)
  assert load_adapter(tmp_path / ADAPTER).config.stack == 3


def test_a_stride_adapter_learns_the_embeddings_of_the_transcript(tiny_world, tmp_path):
  changes = {'response.steps': 0, 'adapter': STRIDE, 'ctc.steps': 60}
  train.train(load_config(tiny_world, **changes), tmp_path)
  metrics = read_metrics(tmp_path)
  assert {entry['stage'] for entry in metrics} == {'ctc'}
  losses = [entry['ctc_tokens'] for entry in metrics]
  assert np.mean(losses[-12:]) < 0.5 * np.mean(losses[:6])
  assert load_adapter(tmp_path / ADAPTER).token_ids() == []


@pytest.mark.full
def test_an_encoder_that_trains_is_resumed_saved_and_loaded(tiny_world, tmp_path):
  changes = NO_LETTERS | {'encoder.trains': 'full', 'ctc.steps': 4, 'response.steps': 0}
  config = load_config(tiny_world, **changes)
  train_until(config, tmp_path / 'resumed', 'ctc', 4, KeyboardInterrupt())
  model = train.train(config, tmp_path / 'resumed')
  expected = train.train(config, tmp_path / 'uninterrupted')
  jax.tree.map(np.testing.assert_array_equal, model.encoder, expected.encoder)
  loaded = build.load_model(config, build.find_checkpoint(tmp_path / 'resumed'))
  jax.tree.map(np.testing.assert_array_equal, loaded.encoder, model.encoder)
  before = build.load_encoder(config.encoder)
  assert (loaded.encoder.conv1.weight[...] != before.conv1.weight[...]).any()
  changes |= {'init_from': str(tmp_path / 'resumed'), 'ctc.steps': 0}
  initial = train.train(load_config(tiny_world, **changes), tmp_path / 'initial')
  jax.tree.map(np.testing.assert_array_equal, initial.encoder, model.encoder)


LORA = {'rank': 2, 'alpha': 4.0, 'dropout': 0.1, 'targets': ('q_proj', 'k_proj', 'fc1')}


@pytest.mark.full
def test_low_rank_updates_are_resumed_saved_and_loaded(tiny_world, tmp_path):
  changes = NO_LETTERS | {'encoder.trains': 'lora', 'encoder.lora': LORA}
  changes |= {'ctc.steps': 4, 'response.steps': 0}
  config = load_config(tiny_world, **changes)
  train_until(config, tmp_path / 'resumed', 'ctc', 4, KeyboardInterrupt())
  model = train.train(config, tmp_path / 'resumed')
  expected = train.train(config, tmp_path / 'uninterrupted')
  jax.tree.map(np.testing.assert_array_equal, model.encoder, expected.encoder)
  base = build.load_encoder(config.encoder)
  np.testing.assert_array_equal(
    model.encoder.layers.fc1.weight.base[...], base.layers.fc1.weight[...]
  )
  assert np.abs(model.encoder.layers.fc1.weight.lora_B[...]).min() > 0
  checkpoint = build.find_checkpoint(tmp_path / 'resumed')
  loaded = build.load_model(config, checkpoint).encoder
  jax.tree.map(
    np.testing.assert_array_equal, loaded, merge_lora(nnx.clone(model.encoder))
  )
  check_start_from_low_rank_updates(tiny_world, tmp_path, changes, model)


def check_start_from_low_rank_updates(tiny_world, tmp_path, changes, model):
  changes |= {'init_from': str(tmp_path / 'resumed'), 'ctc.steps': 0}
  config = load_config(tiny_world, **changes)
  initial = train.train(config, tmp_path / 'initial')
  jax.tree.map(np.testing.assert_array_equal, initial.encoder, model.encoder)
  other = load_config(tiny_world, **changes | {'encoder.lora': LORA | {'rank': 3}})
  with pytest.raises(ValueError, match=r'config\.encoder\.lora has rank 3'):
    train.train(other, tmp_path / 'other')
  other = load_config(
    tiny_world, **changes | {'encoder.lora': LORA | {'targets': ['v']}}
  )
  with pytest.raises(ValueError, match="encoder.lora.targets: LoRA target 'v' matches"):
    train.train(other, tmp_path / 'other')


@pytest.mark.full
def test_low_rank_updates_of_adapter_and_llm(tiny_world, tmp_path):
  lora = LORA | {'targets': ['q_proj', 'down_proj']}
  changes = NO_LETTERS | {
    'llama.lora': lora,
    'adapter.lora': LORA | {'targets': ['up_proj']},
  }
  changes |= {'ctc.steps': 0, 'response.steps': 2, 'response.ctc_weight': 0.0}
  config = load_config(tiny_world, **changes)
  model = train.train(config, tmp_path)
  state = nnx.state(model.adapter.layers.up_proj)
  assert set(state) == {'base', 'lora_A', 'lora_B'}
  loaded = build.load_model(config, build.find_checkpoint(tmp_path))
  jax.tree.map(np.testing.assert_array_equal, loaded.adapter, model.adapter)
  merged = merge_lora(nnx.clone(model.llama))
  base = build.load_frozen_llama(config.llama)
  assert (
    merged.layers.self_attn.q_proj[...] != base.layers.self_attn.q_proj[...]
  ).any()
  jax.tree.map(np.testing.assert_array_equal, loaded.llama, merged)
  changes |= {'init_from': str(tmp_path), 'llama.lora': None}
  with pytest.raises(ValueError, match=r'set config\.llama\.lora'):
    train.train(load_config(tiny_world, **changes), tmp_path / 'other')


def test_training_may_start_from_another_training(tiny_world, uninterrupted, tmp_path):
  changes = {'init_from': str(uninterrupted), 'ctc.steps': 0, 'response.steps': 0}
  train.train(load_config(tiny_world, **changes), tmp_path)
  assert (tmp_path / ADAPTER).read_bytes() == (uninterrupted / ADAPTER).read_bytes()


PACKED = {'data.row_tokens': 90, 'data.row_frames': 60}


@pytest.mark.full
def test_an_encoder_trains_on_packed_rows_of_one_shape(tiny_world, tmp_path):
  """Interrupted in both stages; a row is longer than the longest utterance may be."""
  changes = {'encoder.trains': 'full', 'ctc.steps': 4, 'response.steps': 4}
  config = load_config(tiny_world, **PACKED, **NO_LETTERS, **changes)
  assert (
    config.data.row_frames > build.load_encoder(config.encoder).config.max_frames / 2
  )
  step.train_step.clear_cache()
  expected = train.train(config, tmp_path / 'uninterrupted')
  assert step.train_step._cache_size() == 2  # one per stage
  train_until(config, tmp_path / 'resumed', 'ctc', 4, KeyboardInterrupt())
  train_until(config, tmp_path / 'resumed', 'response', 4, KeyboardInterrupt())
  model = train.train(config, tmp_path / 'resumed')
  jax.tree.map(np.testing.assert_array_equal, model.encoder, expected.encoder)
  jax.tree.map(np.testing.assert_array_equal, model.adapter, expected.adapter)
  losses = read_losses(tmp_path / 'uninterrupted')
  assert read_losses(tmp_path / 'resumed') == losses
  assert [entry['stage'] for entry in losses] == ['ctc'] * 4 + ['response'] * 4
  before = build.load_encoder(config.encoder)
  assert (model.encoder.conv1.weight[...] != before.conv1.weight[...]).any()


@pytest.mark.full
def test_training_on_packed_rows(tiny_world, tmp_path):
  # The response stage without its CTC loss, to compile less.
  changes = {'response.steps': 6, 'response.ctc_weight': 0.0}
  train.train(load_config(tiny_world, **PACKED, **changes), tmp_path)
  entries = read_metrics(tmp_path)
  last = {entry['stage']: entry for entry in entries}
  assert last['ctc']['padding_waste'] < 1 and 'llm_padding_waste' not in last['ctc']
  assert last['response']['llm_padding_waste'] < 1
  first = next(entry for entry in entries if entry['stage'] == 'ctc')
  assert last['ctc']['loss'] < first['loss']


@pytest.mark.full
def test_errors_of_the_program_are_one_line(tiny_world, tmp_path):
  command = [sys.executable, '-m', 'acl_jax.train', f'--workdir={tmp_path}']
  command += [f'--config={tiny_world}/config.py', '--config.data.train=nowhere']
  completed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
  assert completed.returncode == 1
  last = completed.stderr.splitlines()[-1]
  assert last.startswith('error: nowhere/dataset.json: not found')
