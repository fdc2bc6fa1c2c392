# SPDX-License-Identifier: Apache-2.0
"""The TPU kernel, interpreted, and its gradients against plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.models import splash
from acl_jax.models.layers import attention
from acl_jax.models.speech_llm import causal_segment_mask
from acl_jax.models.splash import PackedCausalMask, packed_attention
from acl_jax.models.window import last_keys
from acl_jax.runtime import compilation_cache
from acl_jax.sharding.mesh import make_mesh
from acl_jax.tpu import slices, topologies

pytestmark = pytest.mark.full  # compiles much

B, T, N, K, H = 2, 130, 4, 2, 6
IDS = np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], [40, 50, 30, 10], axis=1)


def random_inputs(prefix):
  keys = jax.random.split(jax.random.key(0), 3)
  query = jax.random.normal(keys[0], (B, T, N, H))
  key, value = (jax.random.normal(k, (B, K, prefix + T, H)) for k in keys[1:])
  # As in the model, the prefix is the same in all rows.
  key, value = (x.at[:, :, :prefix].set(x[:1, :, :prefix]) for x in (key, value))
  return query, key, value


def mask_padding(y, ids=IDS):
  return jnp.where((ids > 0)[..., None, None], y, 0)


def plain(query, key, value, ids=IDS, window=None):
  _, mask = causal_segment_mask(jnp.asarray(ids))
  prefix = key.shape[2] - T
  mask = jnp.pad(mask, ((0, 0), (0, 0), (prefix, 0)), constant_values=True)
  if window is not None:
    mask = last_keys(mask, window)
  return mask_padding(attention(query, key, value, mask), ids)


def kernel(query, key, value, ids=IDS, window=None):
  packed = PackedCausalMask(jnp.asarray(ids), max_per_row=3, window=window)
  y = packed_attention(query, key, value, packed, interpret=True)
  return mask_padding(y, ids)


def test_the_kernel_equals_plain_attention():
  inputs = random_inputs(prefix=0)
  actual, expected = jax.jit(kernel)(*inputs), plain(*inputs)
  np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


def test_the_kernel_and_its_gradients_with_a_shared_prefix():
  compare_with_gradients(random_inputs(prefix=5))


# Padding within every segment.
SPARSE = np.where(np.arange(T) % 5 == 3, 0, IDS)


def test_a_window_counts_the_prefix_and_no_padding_and_a_layer_may_ignore_it():
  inputs = random_inputs(prefix=5)
  packed = PackedCausalMask(jnp.asarray(SPARSE), 3, window=17)

  @jax.jit
  def attend(ignores_window):
    mask = packed._replace(ignores_window=ignores_window)
    y = packed_attention(*inputs, mask, interpret=True)
    return mask_padding(y, SPARSE)

  for ignores, window in ((True, None), (False, 17)):
    expected = plain(*inputs, SPARSE, window)
    np.testing.assert_allclose(attend(ignores), expected, atol=1e-5, rtol=1e-5)


def test_the_gradients_of_a_window():
  compare_with_gradients(random_inputs(prefix=5), SPARSE, window=17)


def compare_with_gradients(inputs, *args, **options):
  weights = jax.random.normal(jax.random.key(1), (B, T, N, H))

  def value_and_gradients(attend):
    def loss(*inputs):
      y = attend(*inputs, *args, **options)
      return (y * weights).sum(), y

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*inputs)

  for actual, expected in zip(
    jax.tree.leaves(value_and_gradients(kernel)),
    jax.tree.leaves(value_and_gradients(plain)),
    strict=True,
  ):
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


def test_the_kernel_is_not_available_on_cpu():
  assert not splash.is_available()


def test_the_kernel_is_partitioned_over_a_tpu_mesh():
  mesh = make_mesh(
    dict(data=1, fsdp=-1, tensor=2),
    topologies.topology_devices(slices.parse_slice('v5e:2x2')),
  )
  shapes = [(B, T, N, H), (B, K, T, H), (B, K, T, H)]
  inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  ids = jax.ShapeDtypeStruct((B, T), jnp.int32)
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  inputs, ids = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), (inputs, ids)
  )

  def attend(query, key, value, ids):
    assert splash.is_available()
    packed = PackedCausalMask(ids, max_per_row=3)
    y = packed_attention(query, key, value, packed)
    return y, packed_attention(query, key, value, packed._replace(window=17))

  with jax.set_mesh(mesh):
    lowered = jax.jit(attend).lower(*inputs, ids)
  assert 'tpu_custom_call' in lowered.as_text()
  with compilation_cache.disabled():
    lowered.compile()
