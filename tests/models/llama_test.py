# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from acl_jax.models import llama
from acl_jax.weights.llama import load_llama
from tests import tiny_llama
from tests.tiny_llama import CONFIG

B, T = 2, 7
POSITIONS = jnp.tile(jnp.arange(T)[None], (B, 1))
CAUSAL = tiny_llama.causal(B, T)


@pytest.fixture(scope='module')
def model():
  return tiny_llama.build()


@pytest.fixture
def x():
  return jax.random.normal(jax.random.key(3), (B, T, CONFIG.hidden_size))


@jax.jit
def run(model, x, positions, mask, cache=None, index=None):
  return model(x, positions, mask, cache, index)


@pytest.mark.parametrize(
  'sizes, parameters',
  [
    ((32_000, 4096, 11_008, 32, 32, 32, 128), 6_738_415_616),
    ((32_000, 5120, 13_824, 40, 40, 40, 128), 13_015_864_320),
    ((32_000, 8192, 28_672, 80, 64, 8, 128), 68_976_648_192),
    ((49_152, 576, 1536, 30, 9, 3, 64), 134_515_008),
  ],
  ids=['7b', '13b', '70b', 'smollm2'],
)
def test_the_published_sizes_have_the_published_parameters(sizes, parameters):
  tied = sizes[0] == 49_152
  config = llama.LlamaConfig(*sizes, 10_000.0, 1e-5, tied, 4096)
  shapes = jax.eval_shape(lambda: llama.Llama(config, rngs=nnx.Rngs(0)))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


def test_every_parameter_names_its_axes(model):
  for path, variable in nnx.to_flat_state(nnx.state(model)):
    stacked = path[0] == 'layers'
    assert len(variable.get_metadata()['axes']) == variable.ndim - stacked, path


def test_a_layer_equals_transformers(x, tmp_path):
  reference = tiny_llama.build_reference()
  reference.save_pretrained(tmp_path)
  block = jax.tree.map(lambda a: a[1], load_llama(tmp_path).layers)
  y, positions, mask = (torch.tensor(np.asarray(a)) for a in (x, POSITIONS, CAUSAL))
  expected = reference.model.layers[1](
    y,
    attention_mask=mask[:, None],
    position_embeddings=reference.model.rotary_emb(y, positions),
  )
  actual, _ = block(x, POSITIONS, CAUSAL)
  np.testing.assert_allclose(actual, expected.detach(), rtol=1e-5, atol=1e-5)


def test_decoding_with_a_cache_equals_the_full_forward(model, x):
  """A prompt of 5 tokens, then one at a time, in a cache longer than needed."""
  expected, keys = run(model, x, POSITIONS, CAUSAL)
  cache = model.empty_cache(B, T + 3, jnp.float32)
  outputs = []
  for start, stop in ((0, 5), (5, 6), (6, T)):
    visible = jnp.arange(T + 3)[None, None] <= jnp.arange(start, stop)[None, :, None]
    mask = jnp.tile(visible, (B, 1, 1))
    part = slice(start, stop)
    y, cache = run(
      model, x[:, part], POSITIONS[:, part], mask, cache, jnp.full(B, start)
    )
    outputs.append(y)
  np.testing.assert_allclose(jnp.concatenate(outputs, 1), expected, atol=1e-5)
  np.testing.assert_allclose(cache.key[..., :T, :], keys.key, atol=1e-5)
  np.testing.assert_allclose(cache.value[..., :T, :], keys.value, atol=1e-5)
  np.testing.assert_array_equal(cache.key[..., T:, :], 0)


def test_masked_positions_change_nothing(model, x):
  """Positions 0 and 3 are padding: garbage there changes no other position."""
  token_mask = jnp.ones((B, T), bool).at[:, jnp.array([0, 3])].set(False)
  mask = CAUSAL & token_mask[:, None]
  actual, _ = run(model, x, POSITIONS, mask)
  garbage, _ = run(model, jnp.where(token_mask[..., None], x, 1e3), POSITIONS, mask)
  np.testing.assert_array_equal(actual[token_mask], garbage[token_mask])
  assert np.isfinite(garbage).all()


def test_packed_sequences_equal_separate_rows(model, x):
  """Sequences of 3 and 4 tokens packed into a row."""
  segments = jnp.array([[0, 0, 0, 1, 1, 1, 1]] * B)
  positions = jnp.array([[0, 1, 2, 0, 1, 2, 3]] * B)
  mask = CAUSAL & (segments[:, :, None] == segments[:, None])
  packed, _ = run(model, x, positions, mask)
  for part in (slice(0, 3), slice(3, 7)):
    alone, _ = run(model, x[:, part], positions[:, part], CAUSAL[:, part, part])
    np.testing.assert_allclose(packed[:, part], alone, atol=1e-5)


def test_hidden_states_do_not_depend_on_later_positions(model, x):
  f = lambda x, t: run(model, x, POSITIONS, CAUSAL)[0][:, t].sum()  # noqa: E731
  gradient = jax.jit(jax.grad(f))
  for t in (0, 3):
    np.testing.assert_array_equal(gradient(x, t)[:, t + 1 :], 0)
    assert (jnp.abs(gradient(x, t)[:, : t + 1]).max((0, 2)) > 0).all()


def test_remat_does_not_change_gradients(model, x):
  loss = lambda x, remat: jnp.sum(model(x, POSITIONS, CAUSAL, remat=remat)[0] ** 2)  # noqa: E731
  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  expected = gradient(x, None)
  for remat in llama.REMAT:
    np.testing.assert_allclose(gradient(x, remat), expected, rtol=1e-5, atol=1e-6)


def test_an_unknown_remat_is_refused(model, x):
  with pytest.raises(ValueError, match='most'):
    model(x, POSITIONS, CAUSAL, remat='most')


def test_split_and_merge_change_nothing(model, x):
  graphdef, state = nnx.split(model)
  f = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, POSITIONS, CAUSAL)[0])
  np.testing.assert_array_equal(f(state, x), run(model, x, POSITIONS, CAUSAL)[0])


def test_hidden_states_have_the_dtype_of_the_input_and_logits_are_float32(model, x):
  y, cache = jax.eval_shape(run, model, x.astype(jnp.bfloat16), POSITIONS, CAUSAL)
  assert y.dtype == cache.key.dtype == cache.value.dtype == jnp.bfloat16
  assert jax.eval_shape(llama.Llama.logits, model, y).dtype == jnp.float32


@pytest.mark.parametrize(
  'change, message',
  [
    ({'num_key_value_heads': 3}, 'num_attention_heads = 4'),
    ({'head_dim': 5}, 'head_dim = 5'),
    ({'hidden_size': 0}, 'hidden_size = 0'),
    ({'rope_theta': float('nan')}, 'rope_theta = nan'),
  ],
)
def test_invalid_sizes_are_refused_by_name(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **change)
