# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.models.cache import BLOCK, CacheMask, KVCache, empty_cache
from acl_jax.models.layers import attention

L, B, T, N, K, H = 3, 2, 5, 4, 2, 6
LENGTH = 2 * BLOCK + 9  # the last block is not whole
LAYER = jnp.int32(1)


@pytest.fixture
def cache():
  keys = jax.random.split(jax.random.key(0))
  return KVCache(*(jax.random.normal(key, (L, B, K, LENGTH, H)) for key in keys))


@pytest.fixture
def query():
  return jax.random.normal(jax.random.key(1), (B, T, N, H))


def mask_until(*stops):
  """Mask positions from each row's stop on; earlier queries stop one earlier each."""
  stop = jnp.asarray(stops)[:, None] - jnp.arange(T)[::-1][None]
  return CacheMask.from_mask(jnp.arange(LENGTH)[None, None] < stop[..., None])


@jax.jit
def attend(cache, query, cache_mask):
  return cache.attend(query, cache_mask, LAYER)


@pytest.mark.parametrize(
  'stops', [(5, 7), (BLOCK, BLOCK + 1), (LENGTH, 3 * T), (LENGTH - 8, LENGTH)]
)
def test_attend_equals_attention(cache, query, stops):
  cache_mask = mask_until(*stops)
  assert cache_mask.end == max(stops)
  expected = attention(query, *cache.read_layer(LAYER), cache_mask.mask)
  np.testing.assert_allclose(attend(cache, query, cache_mask), expected, atol=1e-5)


@pytest.mark.parametrize('other', [T, BLOCK + 1, LENGTH])
def test_the_length_of_another_row_changes_no_bit(cache, query, other):
  expected = attend(cache, query, mask_until(2 * T, 2 * T))
  actual = attend(cache, query, mask_until(2 * T, other))
  np.testing.assert_array_equal(actual[0], expected[0])


def test_blocks_masked_for_all_rows_are_not_read(cache, query):
  cache_mask = mask_until(BLOCK, T)
  with_nan = jax.tree.map(lambda x: x.at[:, :, :, BLOCK:].set(jnp.nan), cache)
  np.testing.assert_array_equal(
    attend(with_nan, query, cache_mask), attend(cache, query, cache_mask)
  )


def test_fully_masked_queries_get_zeros(cache, query):
  cache_mask = mask_until(0, LENGTH)
  actual = attend(cache, query, cache_mask)
  assert not actual[0].any() and actual[1].all()


def test_an_int8_cache_is_read_dequantised(cache, query):
  quantised = empty_cache((L, B, K, LENGTH, H), jnp.float32, jnp.int8).quantise_like(
    *cache
  )
  cache_mask = mask_until(LENGTH - 2, BLOCK)
  expected = attention(query, *quantised.read_layer(LAYER), cache_mask.mask)
  np.testing.assert_allclose(attend(quantised, query, cache_mask), expected, atol=1e-5)
