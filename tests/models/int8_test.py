# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax import assets
from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.int8 import SUMMED, quantise
from acl_jax.models.layers import QuantisedMatrix
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


def divergence(want, got):
  """Mean Kullback-Leibler divergence, nats per token."""
  return float(jnp.mean(jnp.sum(jnp.exp(want) * (want - got), axis=-1)))


def test_a_weight_is_off_by_half_a_step_at_most():
  weight = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)), jnp.float32)
  weight = weight.at[..., 2].multiply(1e3).at[..., 1].set(0)
  small = QuantisedMatrix(nnx.Param(weight, axes=('l', 'd', 'f')), (-2,))
  step = np.abs(weight).max(1, keepdims=True) / 127
  assert (np.abs(small[...] - weight) <= step * 0.5001).all()
  assert small.value[...].dtype == jnp.int8 and small.scale[...].shape == (3, 1, 4)
  np.testing.assert_array_equal(small[1], small[...][1])


@pytest.mark.parametrize('name', tiny_llama.VARIANTS)
def test_a_tiny_llama_says_nearly_the_same(name):
  config = tiny_llama.VARIANTS[name]
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 50, (4, 9)))
  want = log_probs(tiny_llama.build(config), tokens)
  small = quantise(tiny_llama.build(config))
  got = log_probs(small, tokens)
  assert 0 < divergence(want, got) < 1e-2
  leaves = jax.tree_util.tree_leaves_with_path(small)
  large = {
    jax.tree_util.keystr(path) for path, leaf in leaves if leaf.dtype != jnp.int8
  }
  assert all('norm' in path or 'scale' in path for path in large)
  matrices = sum(leaf.dtype == jnp.int8 for _, leaf in leaves)
  assert matrices == len(SUMMED) - config.tie_word_embeddings


def test_the_engine_decodes_it():
  small = quantise(tiny_llama.build())
  engine = Engine(small, EngineConfig(2, 8, 5), prefix=(3, 4))
  [response] = engine.run([Request('a', (1, 2, 5))])
  tokens = jnp.asarray([[3, 4, 1, 2, 5, *response.tokens]])
  scores = log_probs(small, tokens)[0, 4:-1]
  assert response.tokens.tolist() == scores.argmax(-1).tolist()


def test_the_engine_keeps_keys_and_values_in_8_bits():
  llama = tiny_llama.build()
  asked = [Request(str(i), (1, 2 + i, 5, 9)[: 2 + i % 3]) for i in range(5)]

  def answer(cache_dtype, slots):
    rules = DecodeRules(top=50, cache_dtype=cache_dtype)
    engine = Engine(llama, EngineConfig(slots, 8, 5, rules), prefix=(3, 4))
    return {response.request.id: response for response in engine.run(asked)}

  wide, small, alone = answer('', 2), answer('int8', 2), answer('int8', 1)
  for id, response in small.items():
    # Its neighbours, and the slot that it was in, change nothing here either.
    assert response.tokens.tolist() == alone[id].tokens.tolist()
    np.testing.assert_allclose(response.log_probs, alone[id].log_probs, atol=1e-5)
  firsts = [(wide[id].top_log_probs[1], small[id].top_log_probs[1]) for id in wide]
  apart = max(np.abs(want - got).max() for want, got in firsts)
  assert 0 < apart < 0.1


def test_a_cache_in_8_bits_is_off_by_half_a_step_at_most():
  llama, random = tiny_llama.build(), np.random.default_rng(0)
  cache = llama.empty_cache(2, 9, jnp.int8)
  assert cache.places == 9
  wide = random.normal(size=(2, 2, 4, 2, 6)).astype(np.float32)
  cache = cache.write(*map(jnp.asarray, wide), jnp.int32(1), jnp.array([0, 5]))
  for found, want in zip(cache.of_layer(jnp.int32(1)), wide, strict=True):
    placed = np.zeros((2, 2, 9, 6))
    for row, start in enumerate((0, 5)):
      placed[row, :, start : start + 4] = want[row].swapaxes(0, 1)
    step = np.abs(placed).max(-1, keepdims=True) / 127
    assert (np.abs(found - placed) <= step * 0.5001).all()
  assert {leaf.dtype for leaf in jax.tree.leaves(cache)} == {
    jnp.dtype('int8'),
    jnp.dtype('float32'),
  }
  assert not any(np.asarray(part).any() for part in cache.of_layer(jnp.int32(0)))


def test_smollm2_says_nearly_the_same():
  path = assets.resolve('asset:smollm2-135m-instruct')
  tokenizer = load_tokenizer(path)
  turns = [Turn('user', 'What is the capital of France?')]
  turns.append(Turn('assistant', 'The capital of France is Paris.'))
  tokens = jnp.asarray([*chatml(turns, tokenizer)])
  want = log_probs(llama := load_llama(path), tokens)
  assert divergence(want, log_probs(quantise(llama), tokens)) < 0.02
