# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.models.cache import BLOCK, CacheMask, KVCache, empty_cache
from acl_jax.models.layers import attention

L, B, T, N, K, H = 3, 2, 5, 4, 2, 6
PLACES = 2 * BLOCK + 9  # the last block is not whole
LAYER = jnp.int32(1)


@pytest.fixture
def cache():
  keys = jax.random.split(jax.random.key(0))
  return KVCache(*(jax.random.normal(key, (L, B, K, PLACES, H)) for key in keys))


@pytest.fixture
def query():
  return jax.random.normal(jax.random.key(1), (B, T, N, H))


def seen_until(*stops):
  """Each row's queries see all before its stop, the first ones a little less."""
  stop = jnp.asarray(stops)[:, None] - jnp.arange(T)[::-1][None]
  return CacheMask.of(jnp.arange(PLACES)[None, None] < stop[..., None])


@jax.jit
def attend(cache, query, seen):
  return cache.attend(query, seen, LAYER)


@pytest.mark.parametrize(
  'stops', [(5, 7), (BLOCK, BLOCK + 1), (PLACES, 3 * T), (PLACES - 8, PLACES)]
)
def test_it_is_attention_over_what_is_seen(cache, query, stops):
  seen = seen_until(*stops)
  assert seen.until == max(stops)
  want = attention(query, *cache.of_layer(LAYER), seen.mask)
  np.testing.assert_allclose(attend(cache, query, seen), want, atol=1e-5)


@pytest.mark.parametrize('other', [T, BLOCK + 1, PLACES])
def test_how_far_another_row_has_come_changes_no_bit(cache, query, other):
  want = attend(cache, query, seen_until(2 * T, 2 * T))
  got = attend(cache, query, seen_until(2 * T, other))
  np.testing.assert_array_equal(got[0], want[0])


def test_blocks_that_nobody_sees_are_not_read(cache, query):
  seen = seen_until(BLOCK, T)
  spoilt = jax.tree.map(lambda x: x.at[:, :, :, BLOCK:].set(jnp.nan), cache)
  np.testing.assert_array_equal(attend(spoilt, query, seen), attend(cache, query, seen))


def test_who_sees_nothing_gets_zeros(cache, query):
  seen = seen_until(0, PLACES)
  got = attend(cache, query, seen)
  assert not got[0].any() and got[1].all()


def test_8_bits_are_read_as_they_are_kept(cache, query):
  kept = empty_cache((L, B, K, PLACES, H), jnp.float32, jnp.int8).rounded(*cache)
  seen = seen_until(PLACES - 2, BLOCK)
  want = attention(query, *kept.of_layer(LAYER), seen.mask)
  np.testing.assert_allclose(attend(kept, query, seen), want, atol=1e-5)
