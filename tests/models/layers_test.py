# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.llama import modeling_llama

from acl_jax.models import layers
from acl_jax.models.rope import Rope

B, T, S, D, N, K, H = 2, 7, 9, 24, 4, 2, 6


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def to_torch(x):
  return torch.tensor(np.asarray(x))


def test_rms_norm_equals_transformers():
  x, scale = normal(B, T, D), normal(D, seed=1)
  norm = modeling_llama.LlamaRMSNorm(D, eps=1e-3)
  norm.weight.data = to_torch(scale)
  expected = norm(to_torch(x)).detach()
  np.testing.assert_allclose(layers.rms_norm(x, scale, 1e-3), expected, atol=1e-5)


def test_layer_norm_equals_pytorch():
  x, scale, bias = normal(B, T, D), normal(D, seed=1), normal(D, seed=2)
  arguments = (to_torch(x), (D,), to_torch(scale), to_torch(bias), 1e-3)
  expected = torch.nn.functional.layer_norm(*arguments)
  np.testing.assert_allclose(
    layers.layer_norm(x, scale, bias, 1e-3), expected, atol=1e-5
  )


@pytest.mark.parametrize('norm', ['rms_norm', 'layer_norm'])
def test_norms_compute_in_float32(norm):
  x = jnp.asarray(normal(B, T, D) * 1e3, jnp.bfloat16)
  more = () if norm == 'rms_norm' else (jnp.zeros(D),)
  f = lambda x: getattr(layers, norm)(x, jnp.ones(D), *more, 1e-5)  # noqa: E731
  assert f(x).dtype == jnp.bfloat16
  np.testing.assert_array_equal(f(x), f(x.astype(jnp.float32)).astype(jnp.bfloat16))


def test_rope_scores_depend_only_on_distance():
  query, key = normal(1, 1, 1, H), normal(1, 1, 1, H, seed=1)
  rotate = lambda x, position: Rope(H, 100.0, 64)(x, jnp.array([[position]]))  # noqa: E731
  score = lambda i, j: jnp.sum(rotate(query, i) * rotate(key, j))  # noqa: E731
  np.testing.assert_allclose(score(3, 1), score(13, 11), rtol=1e-5)
  assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_rope_is_the_identity_at_position_0():
  x = normal(B, T, N, H)
  np.testing.assert_array_equal(Rope(H, 1e4, 64)(x, jnp.zeros((B, T), int)), x)


def attention_definition(query, key, value, mask):
  """One query at a time, in float64."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  out = np.zeros(query.shape)
  for b, t, n in np.ndindex(query.shape[:3]):
    attended = mask[b, t]
    k = n // (query.shape[2] // key.shape[1])
    weights = np.exp(key[b, k, attended] @ query[b, t, n] / np.sqrt(H))
    out[b, t, n] = weights / weights.sum() @ value[b, k, attended]
  return out


@pytest.mark.parametrize('k', [1, K, N])
def test_attention_equals_its_definition(k):
  query, key, value = normal(B, T, N, H), normal(B, k, S, H), normal(B, k, S, H, seed=1)
  mask = (normal(B, T, S, seed=2) > 0).at[:, :, 0].set(True)
  actual = layers.attention(query, key, value, mask)
  expected = attention_definition(query, key, value, np.asarray(mask))
  np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_masked_keys_change_nothing():
  query, key, value = normal(B, T, N, H), normal(B, K, S, H), normal(B, K, S, H)
  mask = jnp.ones((B, T, S), bool).at[:, :, 3].set(False)
  actual = layers.attention(query, key, value, mask)
  key, value = key.at[:, :, 3].set(1e4), value.at[:, :, 3].set(-1e4)
  np.testing.assert_array_equal(actual, layers.attention(query, key, value, mask))


def test_a_fully_masked_query_has_finite_output_and_gradients():
  query, key, value = normal(B, T, N, H), normal(B, K, S, H), normal(B, K, S, H)
  mask = jnp.ones((B, T, S), bool).at[:, 2].set(False)
  loss = lambda *qkv: jnp.sum(layers.attention(*qkv, mask) ** 2)  # noqa: E731
  value, gradients = jax.value_and_grad(loss, (0, 1, 2))(query, key, value)
  assert all(np.isfinite(x).all() for x in (value, *gradients))
