# SPDX-License-Identifier: Apache-2.0
"""Training on eight devices is training on one; `sharding_test.py` runs this."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from acl_jax.batches.arrays import PretrainBatch
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC, LetterHead
from acl_jax.sharding.arrays import make_sharded, shard, to_device, to_host
from acl_jax.sharding.mesh import make_mesh
from acl_jax.training import pretraining, step
from tests.training.step_test import BOTH, batch, build

MESH = dict(data=2, fsdp=2, tensor=2)
KEYS = jax.random.split(jax.random.key(3), 2)
# Not Adam, whose first steps are as large for a gradient of nothing but rounding.
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3, momentum=0.9))


def filled(data, rows=8):
  """With as many rows as any mesh divides; the last, which is empty, again."""
  more = lambda x: np.concatenate([x, np.repeat(x[-1:], rows - len(x), 0)])  # noqa: E731
  return jax.tree.map(lambda x: x if x.ndim == 1 else more(x), data)


def run(update, state, data):
  metrics = []
  for key in KEYS:
    state, values = update(state, data, key)
    metrics.append({name: float(value) for name, value in values.items()})
  return state, metrics


def assert_same(found, expected):
  (state, metrics), (wanted, wanted_metrics) = found, expected
  for ours, theirs in zip(metrics, wanted_metrics, strict=True):
    assert ours == pytest.approx(theirs, rel=2e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6),
    to_host(state.trainable),
    wanted.trainable,
  )


def respond(data):
  """Some steps of the response stage, its CTC loss included, where a mesh is set."""
  split = nnx.split(build(), step.trainable_filter(False), ...)
  graphdef, (trainable, frozen) = split[0], shard(split[1:])
  state = step.TrainState(trainable, make_sharded(OPTIMIZER.init, trainable))
  loss = functools.partial(step.response_loss, encoder_trains=False, how=BOTH)
  update = functools.partial(
    step.train_step, frozen=frozen, graphdef=graphdef, optimizer=OPTIMIZER, loss=loss
  )
  return run(update, state, to_device(data))


def test_the_response_stage():
  alone = respond(batch())
  with jax.set_mesh(make_mesh(MESH)):
    assert_same(respond(filled(batch())), alone)


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


def transcribed(rows=3):
  """Rows of two packed recordings of noise; the last is empty."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(8, 16, (rows, 2)) * (np.arange(rows) < rows - 1)[:, None]
  log_mel = rng.normal(size=(rows, 32, 16)).astype(np.float32)
  ids = np.zeros((rows, 32), np.int32)
  place = np.full((rows, 2, 8), -1, np.int32)
  labels = np.zeros((rows, 2, 8), np.int32)
  labels[:, :, :3] = rng.integers(1, 7, (rows, 2, 3))
  for row, (first, second) in enumerate(lengths):
    ids[row, :first], ids[row, 16 : 16 + second] = 1, 2
    place[row, 0, : -(-first // 2)] = np.arange(-(-first // 2))
    place[row, 1, : -(-second // 2)] = 8 + np.arange(-(-second // 2))
  letters = np.zeros((rows, 2, 24), np.int32)
  letters[:, :, :5] = rng.integers(1, 27, (rows, 2, 5))
  labels[-1] = letters[-1] = 0
  return PretrainBatch(log_mel, ids, place, labels, letters)


def pretrain(data):
  model = make_sharded(lambda: ConformerCTC(CONFORMER, 7, rngs=nnx.Rngs(0)))
  head = make_sharded(lambda: LetterHead(CONFORMER.hidden_size, 3, rngs=nnx.Rngs(1)))
  learner = pretraining.PretrainModel(model, head)
  graphdef, trainable, statistics = pretraining.split(learner)
  copy = jax.tree.map(jnp.copy, (trainable, statistics))
  optimizer = make_sharded(OPTIMIZER.init, trainable)
  update = functools.partial(
    pretraining.pretrain_step,
    graphdef=graphdef,
    optimizer=OPTIMIZER,
    how=pretraining.PretrainStepConfig(0.9, 'dots', letter_layer=1, letter_weight=0.5),
  )
  state = pretraining.PretrainState(trainable, statistics, optimizer, copy)
  state, metrics = run(update, state, to_device(data))
  learnt = to_host(state.average)
  statistics = nnx.to_flat_state(to_host(state.statistics))
  return state, metrics, learnt, [np.asarray(leaf[...]) for _, leaf in statistics]


def test_pretraining_and_the_statistics_of_the_global_batch():
  pretrained = pretrain(transcribed())
  with jax.set_mesh(make_mesh(MESH)):
    found = pretrain(filled(transcribed()))
    assert_same(found[:2], pretrained[:2])
  for ours, theirs in zip(found[3], pretrained[3], strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
