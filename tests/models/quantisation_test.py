# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax import assets
from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.matrices import GroupedMatrix, QuantisedMatrix
from acl_jax.models.quantisation import REDUCED_AXES, quantise
from acl_jax.models.speech_llm import causal_segment_mask
from acl_jax.text.templates import Turn, chatml
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights.llama import load_llama
from tests import tiny_llama


@jax.jit
def log_probs(llama, tokens):
  hidden, _ = llama(
    llama.embed(tokens), *causal_segment_mask(jnp.ones(tokens.shape, jnp.int32))
  )
  return jax.nn.log_softmax(llama.logits(hidden))


def divergence(expected, actual):
  """Mean Kullback-Leibler divergence, nats per token."""
  return float(jnp.mean(jnp.sum(jnp.exp(expected) * (expected - actual), axis=-1)))


def test_a_quantised_weight_is_within_half_a_step():
  weight = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)), jnp.float32)
  weight = weight.at[..., 2].multiply(1e3).at[..., 1].set(0)
  quantised = QuantisedMatrix(nnx.Param(weight, axes=('l', 'd', 'f')), (-2,))
  step = np.abs(weight).max(1, keepdims=True) / 127
  assert (np.abs(quantised[...] - weight) <= step * 0.5001).all()
  assert quantised.value[...].dtype == jnp.int8
  assert quantised.scale[...].shape == (3, 1, 4)
  np.testing.assert_array_equal(quantised[1], quantised[...][1])


@pytest.mark.parametrize('group_size, groups', [(5, 2), (2, 3)])
def test_a_weight_in_4_bits_is_within_half_a_step_of_its_group(group_size, groups):
  """Of an axis of 6 there are groups of 5 at most, so of 3, or groups of 2."""
  shape = 3, groups, 7, 4
  weight = np.random.default_rng(0).normal(size=(3, 6, 7, 4))
  weight = jnp.asarray(weight, jnp.float32)
  weight = weight.at[:, 0].multiply(1e3).at[..., 2].set(0)
  quantised = GroupedMatrix(nnx.Param(weight, axes=('d', 'n', 'h')), -3, group_size)
  assert quantised.scale[...].shape == shape
  grouped = np.asarray(weight).reshape(3, groups, -1, 7, 4)
  step = np.abs(grouped).max(2, keepdims=True) / 7
  error = np.abs(np.asarray(quantised[...]).reshape(grouped.shape) - grouped)
  assert (error <= step * 0.5001).all()
  assert quantised.value[...].dtype == jnp.int4
  np.testing.assert_array_equal(quantised[1], quantised[...][1])


@pytest.mark.parametrize('name', tiny_llama.VARIANTS)
def test_a_quantised_tiny_llama_predicts_nearly_the_same(name):
  config = tiny_llama.VARIANTS[name]
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 50, (4, 9)))
  expected = log_probs(tiny_llama.build(config), tokens)
  quantised = quantise(tiny_llama.build(config))
  actual = log_probs(quantised, tokens)
  assert 0 < divergence(expected, actual) < 1e-2
  leaves = jax.tree_util.tree_leaves_with_path(quantised)
  large = {
    jax.tree_util.keystr(path) for path, leaf in leaves if leaf.dtype != jnp.int8
  }
  assert all('norm' in path or 'scale' in path for path in large)
  matrices = sum(leaf.dtype == jnp.int8 for _, leaf in leaves)
  assert matrices == len(REDUCED_AXES) - config.tie_word_embeddings


def test_in_4_bits_the_embeddings_have_8_and_the_rest_predicts_similarly():
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 50, (4, 9)))
  expected = log_probs(tiny_llama.build(), tokens)
  quantised = quantise(tiny_llama.build(), jnp.int4)
  assert 1e-4 < divergence(expected, log_probs(quantised, tokens)) < 0.3
  names: dict[str, set[str]] = {'int4': set(), 'int8': set(), 'float32': set()}
  for path, leaf in jax.tree_util.tree_leaves_with_path(quantised):
    names[leaf.dtype.name].add(jax.tree_util.keystr(path))
  assert len(names['int4']) == 7 and all('layers' in name for name in names['int4'])
  assert len(names['int8']) == 2
  assert all('norm' in name or 'scale' in name for name in names['float32'])


@pytest.mark.parametrize('dtype', ['int8', 'int4'])
def test_the_engine_decodes_a_quantised_llama(dtype):
  quantised = quantise(tiny_llama.build(), dtype)
  engine = Engine(quantised, EngineConfig(2, 8, 5), shared_prefix=(3, 4))
  [response] = engine.run([Request('a', (1, 2, 5))])
  tokens = jnp.asarray([[3, 4, 1, 2, 5, *response.tokens]])
  scores = log_probs(quantised, tokens)[0, 4:-1]
  assert response.tokens.tolist() == scores.argmax(-1).tolist()


def test_the_engine_decodes_with_an_int8_cache():
  llama = tiny_llama.build()
  requests = [Request(str(i), (1, 2 + i, 5, 9)[: 2 + i % 3]) for i in range(5)]

  def decode(cache_dtype, slots):
    rules = DecodeRules(num_top_tokens=50, cache_dtype=cache_dtype)
    engine = Engine(llama, EngineConfig(slots, 8, 5, rules), shared_prefix=(3, 4))
    return {response.request.id: response for response in engine.run(requests)}

  full, quantised, one_slot = decode('', 2), decode('int8', 2), decode('int8', 1)
  for id, response in quantised.items():
    # Neighbours and the slot change nothing with an int8 cache either.
    assert response.tokens.tolist() == one_slot[id].tokens.tolist()
    np.testing.assert_allclose(response.log_probs, one_slot[id].log_probs, atol=1e-5)
  first_steps = [
    (full[id].top_log_probs[1], quantised[id].top_log_probs[1]) for id in full
  ]
  difference = max(np.abs(expected - actual).max() for expected, actual in first_steps)
  assert 0 < difference < 0.1


def test_an_int8_cache_is_within_half_a_step():
  llama, random = tiny_llama.build(), np.random.default_rng(0)
  cache = llama.empty_cache(2, 9, jnp.int8)
  assert cache.length == 9
  full = random.normal(size=(2, 2, 4, 2, 6)).astype(np.float32)
  cache = cache.write(*map(jnp.asarray, full), jnp.int32(1), jnp.array([0, 5]))
  for actual, expected in zip(cache.read_layer(jnp.int32(1)), full, strict=True):
    positioned = np.zeros((2, 2, 9, 6))
    for row, start in enumerate((0, 5)):
      positioned[row, :, start : start + 4] = expected[row].swapaxes(0, 1)
    step = np.abs(positioned).max(-1, keepdims=True) / 127
    assert (np.abs(actual - positioned) <= step * 0.5001).all()
  assert {leaf.dtype for leaf in jax.tree.leaves(cache)} == {
    jnp.dtype('int8'),
    jnp.dtype('float32'),
  }
  assert not any(np.asarray(part).any() for part in cache.read_layer(jnp.int32(0)))


@pytest.mark.full
def test_quantised_smollm2_predicts_nearly_the_same():
  path = assets.resolve('asset:smollm2-135m-instruct')
  tokenizer = load_tokenizer(path)
  turns = [Turn('user', 'What is the capital of France?')]
  turns.append(Turn('assistant', 'The capital of France is Paris.'))
  tokens = jnp.asarray([*chatml(turns, tokenizer)])
  expected = log_probs(llama := load_llama(path), tokens)
  assert divergence(expected, log_probs(quantise(llama), tokens)) < 0.02
