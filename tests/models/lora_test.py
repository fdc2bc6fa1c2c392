# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax.models import lora
from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.layers import Linear, param
from acl_jax.models.lora import (
  LoRAConfig,
  apply_lora,
  merge_lora,
  remove_lora,
  wrapped_matrices,
)
from acl_jax.models.matrices import contract, lookup, score_rows
from acl_jax.models.whisper import Whisper, WhisperConfig
from acl_jax.tpu.planning.flops import count_flops
from tests import tiny_llama

WHISPER = WhisperConfig(
  num_mel_bins=10,
  d_model=12,
  encoder_layers=3,
  encoder_attention_heads=2,
  encoder_ffn_dim=18,
  max_source_positions=20,
)
CONFORMER = ConformerConfig(
  hidden_size=12,
  num_hidden_layers=2,
  num_attention_heads=3,
  intermediate_size=20,
  conv_kernel_size=5,
  num_mel_bins=16,
  subsampling_conv_channels=7,
)


def config(*targets, rank=2, alpha=3.0, dropout=0.0):
  return LoRAConfig(rank, alpha, dropout, targets)


def whisper():
  return copy(build_once(Whisper, WHISPER))


def conformer():
  return copy(build_once(Conformer, CONFORMER))


def copy(module):
  return jax.tree.map(lambda x: x, module)


@functools.cache
def build_once(kind, config):
  return jax.jit(lambda: kind(config, rngs=nnx.Rngs(0)))()


MODELS = {
  'whisper': (whisper, ('q_proj', 'k_proj', 'v_proj', 'out_proj', 'fc1', 'fc2')),
  'conformer': (
    conformer,
    (
      *(
        'q_proj',
        'k_proj',
        'v_proj',
        'o_proj',
        'relative_k_proj',
        'linear1',
        'linear2',
      ),
      *('pointwise_conv1', 'pointwise_conv2', 'pointwise_1', 'subsampling.linear'),
    ),
  ),
  'llama': (
    tiny_llama.build,
    ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'),
  ),
}


@jax.jit
def run(model):
  """Run any of the models on random inputs of its own."""
  key = jax.random.key(1)
  if isinstance(model, Whisper | Conformer):
    frames = jax.random.normal(key, (2, 33, model.config.num_mel_bins))
    frame_mask = jnp.arange(33)[None] < jnp.asarray([33, 26])[:, None]
    y, mask = model(frames, frame_mask)
    return jnp.where(mask[..., None], y, 0)
  x = jax.random.normal(key, (2, 7, model.config.hidden_size))
  positions = jnp.tile(jnp.arange(7), (2, 1))
  mask = jnp.tril(jnp.ones((2, 7, 7), bool))
  return model.logits(model(x, positions, mask)[0])


def randomise(module):
  """Give every B random values, as if it had been trained."""
  for number, matrix in enumerate(wrapped_matrices(module).values()):
    rng = np.random.default_rng(number)
    matrix.lora_B[...] = jnp.asarray(rng.normal(0, 0.1, matrix.lora_B.shape), 'float32')
  return module


@functools.cache
def trained_once(name):
  build, targets = MODELS[name]
  wrap = jax.jit(lambda model: apply_lora(model, config(*targets), rngs=nnx.Rngs(1)))
  return randomise(wrap(build()))


def trained(name):
  """A model with every matrix wrapped, as if it had been trained."""
  return copy(trained_once(name))


@pytest.mark.parametrize(
  'name', ['whisper', 'llama', pytest.param('conformer', marks=pytest.mark.full)]
)
def test_step_zero_is_the_base_model(name):
  build, targets = MODELS[name]
  # XLA may fuse a Conformer's layer differently, so compare operation by operation.
  with jax.disable_jit(name == 'conformer'):
    expected = run(build())
    module = apply_lora(build(), config(*targets), rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(run(module), expected)
  assert np.abs(run(randomise(module)) - expected).max() > 1e-3


@pytest.mark.parametrize('name', ['whisper', 'llama'])
def test_removing_updates_leaves_the_base_model(name):
  build, _ = MODELS[name]
  jax.tree.map(np.testing.assert_array_equal, remove_lora(trained(name)), build())


@pytest.mark.parametrize('name', MODELS)
def test_merging_changes_nothing_but_rounding(name):
  build, _ = MODELS[name]
  expected = np.asarray(run(trained(name)))
  merged = jax.jit(merge_lora)(trained(name))
  assert jax.tree.structure(merged) == jax.tree.structure(build())
  np.testing.assert_allclose(run(merged), expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize('name', MODELS)
def test_gradients_equal_those_through_the_merged_matrix(name):
  """Every matrix of every layer, so that no site ignores its factors."""
  graphdef, factors, frozen = nnx.split(trained(name), lora.Factor, ...)

  @functools.partial(jax.jit, static_argnums=1)
  @jax.grad
  def gradient(factors, prepare):
    y = run(prepare(nnx.merge(graphdef, factors, frozen)))
    return jnp.mean(y * jnp.sin(jnp.arange(y.size)).reshape(y.shape))

  actual = jax.tree.map(np.asarray, gradient(factors, lambda model: model))
  expected = jax.tree.map(np.asarray, gradient(factors, merge_lora))
  for (path, a), (_, b) in zip(
    jax.tree_util.tree_leaves_with_path(actual),
    jax.tree_util.tree_leaves_with_path(expected),
    strict=True,
  ):
    largest = np.abs(b).max(axis=(*range(1, b.ndim),), keepdims=True)
    assert largest.min() > 0, path
    np.testing.assert_allclose(a / largest, b / largest, atol=1e-5, err_msg=str(path))


def test_gradients_keep_the_dtypes_of_their_arrays():
  """An input in bfloat16, a sum in float32, as in the logits of an LLM."""
  layer = nnx.Module()
  layer.proj = param(nnx.Rngs(0), (5, 4, 3), ('embed', 'heads', 'mlp'), inputs=1)
  apply_lora(layer, config('proj'), rngs=nnx.Rngs(1))
  graphdef, factors, frozen = nnx.split(randomise(layer), lora.Factor, ...)
  x = jax.random.normal(jax.random.key(2), (2, 7, 5))

  def loss(factors, x, dtype):
    y = contract(x, nnx.merge(graphdef, factors, frozen).proj, dtype=dtype)
    return jnp.sum(y * jnp.sin(jnp.arange(y.size)).reshape(y.shape))

  gradient = jax.grad(loss, argnums=(0, 1))
  expected, actual = (
    gradient(factors, x, None),
    gradient(factors, x.astype(jnp.bfloat16), jnp.float32),
  )
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * np.abs(b).max())
  assert {x.dtype for x in jax.tree.leaves(actual[0])} == {jnp.dtype('float32')}
  assert actual[1].dtype == jnp.bfloat16


class Table(nnx.Module):
  def __init__(self):
    self.embed_tokens = param(nnx.Rngs(0), (9, 5), ('vocab', 'embed'), inputs=1)


def test_a_table_is_looked_up_and_is_an_output_head():
  module = randomise(apply_lora(Table(), config('embed_tokens'), rngs=nnx.Rngs(1)))
  (table,) = wrapped_matrices(module).values()
  merged = table.merge()[...]
  ids, x = jnp.asarray([[3, 8, 0]]), jax.random.normal(jax.random.key(2), (2, 4, 5))
  np.testing.assert_allclose(lookup(table, ids), merged[ids], atol=1e-6)
  np.testing.assert_allclose(score_rows(x, table), x @ merged.T, atol=1e-6)


class Towers(nnx.Module):
  """Two stacks of a dense layer."""

  def __init__(self):
    rngs = nnx.Rngs(0)
    self.first = Linear((4, 6), ('embed', 'mlp'), rngs=rngs)
    self.second = Linear((6, 4), ('mlp', 'embed'), rngs=rngs)
    self.second_first = Linear((6, 4), ('mlp', 'embed'), rngs=rngs)


def test_targets_match_whole_parts_of_names():
  module = apply_lora(Towers(), config('first'), rngs=nnx.Rngs(0))
  assert list(wrapped_matrices(module)) == ['first']


@pytest.mark.parametrize(
  'targets, message',
  [
    (('q_proj', 'fc3'), "'fc3' matches no matrix; there are k_proj, fc1, fc2"),
    (('conv1',), "'conv1' matches no matrix"),
    (('embed_positions',), "'embed_positions' matches no matrix"),
    (('proj',), "'proj' matches no matrix"),
    (('fc1', 'layers.fc1'), "'fc1' and 'layers.fc1' both match layers.fc1"),
  ],
)
def test_targets_that_match_nothing_or_twice_are_named(targets, message):
  with pytest.raises(ValueError, match=message):
    apply_lora(whisper(), config(*targets), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'rank': 0}, 'rank = 0 is not at least 1'),
    ({'alpha': float('inf')}, 'alpha = inf is not a positive finite number'),
    ({'dropout': 1.0}, 'dropout = 1.0 is not at least 0 and below 1'),
  ],
)
def test_settings_are_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    config('fc1', **changes)
  with pytest.raises(ValueError, match='targets is empty'):
    config()


def test_dropout_has_a_mask_for_every_layer_and_needs_a_key():
  settings = config('fc1', 'k_proj', dropout=0.5)
  module = randomise(apply_lora(whisper(), settings, rngs=nnx.Rngs(1)))
  plain = randomise(apply_lora(whisper(), config('fc1', 'k_proj'), rngs=nnx.Rngs(1)))
  np.testing.assert_array_equal(run(module), run(plain))
  first, again, other = (
    run(with_key(module, jax.random.key(number))) for number in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-4
  keys = [m.key for m in wrapped_matrices(with_key(module, jax.random.key(1))).values()]
  data = [jax.random.key_data(key[...]).tolist() for key in keys if key is not None]
  assert len({tuple(one) for layers in data for one in layers}) == 6  # 2 x 3 layers


def with_key(module, key):
  clone = nnx.clone(module)
  lora.set_dropout_key(clone, key)
  return clone


def test_dropout_keeps_the_expected_update():
  module = apply_lora(Towers(), config('first', dropout=0.25), rngs=nnx.Rngs(1))
  x = jax.random.normal(jax.random.key(2), (4,))
  expected = randomise(module).first(x)
  lora.set_dropout_key(module, jax.random.key(3))
  actual = module.first(jnp.broadcast_to(x, (20_000, 4))).mean(0)
  np.testing.assert_allclose(actual, expected, atol=5e-3)


@functools.cache
def flops_of_backward(wrapped):
  def build():
    holder = Towers()
    holder.first = Linear((64, 96), ('embed', 'mlp'), bias=False, rngs=nnx.Rngs(0))
    if wrapped:
      apply_lora(holder, config('first', rank=1), rngs=nnx.Rngs(1))
    return holder.first

  graphdef, trains, frozen = nnx.split(
    jax.eval_shape(build), lora.Factor if wrapped else nnx.Param, ...
  )
  x = jax.ShapeDtypeStruct((50, 64), jnp.float32)

  def loss(trains, x, frozen):
    return jnp.sum(contract(x, module_of(nnx.merge(graphdef, trains, frozen))) ** 2)

  lowered = jax.jit(jax.grad(loss, (0, 1))).lower(trains, x, frozen)
  return count_flops(lowered) / (2 * 50 * 64 * 96)


def module_of(linear):
  return linear.weight


def test_the_base_has_no_gradient():
  """Two products instead of three; the factors of rank 1 add little."""
  assert 3.0 <= flops_of_backward(False) < 3.1
  assert 2.0 <= flops_of_backward(True) < 2.2
