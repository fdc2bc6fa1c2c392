# SPDX-License-Identifier: Apache-2.0
"""Training on eight devices equals training on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from acl_jax.batches.arrays import PretrainBatch
from acl_jax.config.stages import LettersConfig, PretrainStageConfig
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC, LetterHead
from acl_jax.sharding.arrays import make_sharded, shard, to_device
from acl_jax.sharding.mesh import make_mesh
from acl_jax.training import pretraining, step
from tests.sharding.meshes import MESHES
from tests.training.step_test import (
  build,
  build_with_lora,
  encoding_loss_and_batch,
  loss_and_batch,
)

pytestmark = pytest.mark.full  # compiles many training steps

KEYS = jax.random.split(jax.random.key(3), 2)
# Not Adam, whose first steps are large even if a gradient is only rounding errors.
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3, momentum=0.9))
# Compiled once, not operation by operation.
init_optimizer = jax.jit(OPTIMIZER.init)
copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


def repeat_last_row(data, rows=8):
  """Add rows until the mesh divides them, as copies of the last, which is empty."""

  def repeat(x):
    return np.concatenate([x, np.repeat(x[-1:], rows - len(x), 0)])

  return jax.tree.map(lambda x: x if x.ndim == 1 else repeat(x), data)


def run(update, state, data):
  metrics = []
  for key in KEYS:
    state, values = update(state, data, key)
    metrics.append({name: float(value) for name, value in values.items()})
  return state, metrics


def assert_same(actual, expected):
  (state, metrics), (expected_state, expected_metrics) = actual, expected
  for values, expected_values in zip(metrics, expected_metrics, strict=True):
    assert values == pytest.approx(expected_values, rel=2e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6),
    state.trainable,
    expected_state.trainable,
  )


def train_on_responses(model, trains, loss, data):
  """Take steps of the response stage, including its CTC loss, in the current mesh."""
  split = nnx.split(model, step.trainable_filter(trains), ...)
  graphdef, (trainable, frozen) = split[0], shard(split[1:])
  state = step.TrainState(trainable, make_sharded(init_optimizer, trainable))
  update = functools.partial(
    step.train_step, frozen=frozen, graphdef=graphdef, optimizer=OPTIMIZER, loss=loss
  )
  return run(update, state, to_device(data))


def test_the_response_stage():
  loss, batch = loss_and_batch('response')
  expected = train_on_responses(build(), 'none', loss, batch)
  with jax.set_mesh(make_mesh(MESHES['all'])):
    sharded = train_on_responses(build(), 'none', loss, repeat_last_row(batch))
    assert_same(sharded, expected)


def test_low_rank_updates():
  loss, batch = encoding_loss_and_batch()
  expected = train_on_responses(build_with_lora(), 'lora', loss, batch)
  with jax.set_mesh(make_mesh(MESHES['all'])):
    sharded = train_on_responses(
      build_with_lora(), 'lora', loss, repeat_last_row(batch)
    )
    factors = sharded[0].trainable['encoder']['layers']['fc1']['weight']
    assert factors['lora_A'][...].sharding.spec == P(None, 'fsdp')
    assert factors['lora_B'][...].sharding.spec == P(None, None, 'tensor')
    assert_same(sharded, expected)


def test_the_response_stage_with_an_encoder_that_trains():
  loss, batch = encoding_loss_and_batch()
  expected = train_on_responses(build(), 'full', loss, batch)
  with jax.set_mesh(make_mesh(MESHES['all'])):
    sharded = train_on_responses(build(), 'full', loss, repeat_last_row(batch))
    assert_same(sharded, expected)


CONFORMER = ConformerConfig(
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=4,
  intermediate_size=40,
  conv_kernel_size=5,
  num_mel_bins=16,
  subsampling_factor=2,
  subsampling_conv_channels=10,
)
PRETRAIN = PretrainStageConfig(
  steps=len(KEYS),
  frames_per_batch=0,
  peak_lr=0.0,  # see `OPTIMIZER`
  warmup_steps=0,
  weight_decay=0.0,
  clip_norm=1.0,
  skip_spikes=False,
  log_every=1,
  save_every=1,
  average_decay=0.9,
  remat='dots',
  letters=LettersConfig(layer=1, per_frame=3, weight=0.5),
)


def pretrain_batch(rows=3):
  """Rows of two packed utterances of noise; the last is empty."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(8, 16, (rows, 2)) * (np.arange(rows) < rows - 1)[:, None]
  log_mel = rng.normal(size=(rows, 32, 16)).astype(np.float32)
  ids = np.zeros((rows, 32), np.int32)
  frame_index = np.full((rows, 2, 8), -1, np.int32)
  labels = np.zeros((rows, 2, 8), np.int32)
  labels[:, :, :3] = rng.integers(1, 7, (rows, 2, 3))
  for row, (first, second) in enumerate(lengths):
    ids[row, :first], ids[row, 16 : 16 + second] = 1, 2
    frame_index[row, 0, : -(-first // 2)] = np.arange(-(-first // 2))
    frame_index[row, 1, : -(-second // 2)] = 8 + np.arange(-(-second // 2))
  letters = np.zeros((rows, 2, 24), np.int32)
  letters[:, :, :5] = rng.integers(1, 27, (rows, 2, 5))
  labels[-1] = letters[-1] = 0
  return PretrainBatch(log_mel, ids, frame_index, labels, letters)


@jax.jit
def build_learner():
  model = ConformerCTC(CONFORMER, 7, rngs=nnx.Rngs(0))
  head = LetterHead(CONFORMER.hidden_size, 3, rngs=nnx.Rngs(1))
  return pretraining.PretrainModel(model, head)


def pretrain(data):
  learner = make_sharded(build_learner)
  graphdef, trainable, statistics = pretraining.split(learner)
  average = copy((trainable, statistics))
  optimizer = make_sharded(init_optimizer, trainable)
  update = functools.partial(
    pretraining.pretrain_step,
    graphdef=graphdef,
    optimizer=OPTIMIZER,
    stage=PRETRAIN,
  )
  state = pretraining.PretrainState(trainable, statistics, optimizer, average)
  state, metrics = run(update, state, to_device(data))
  return state, metrics, (state.statistics, state.average)


def test_pretraining_and_the_averages_of_the_global_batch():
  *expected, expected_averages = pretrain(pretrain_batch())
  with jax.set_mesh(make_mesh(MESHES['all'])):
    *actual, averages = pretrain(repeat_last_row(pretrain_batch()))
    assert_same(actual, expected)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    averages,
    expected_averages,
  )
