# SPDX-License-Identifier: Apache-2.0
"""The TPU's kernel, interpreted: what plain attention computes, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from acl_jax.models import splash
from acl_jax.models.layers import attention
from acl_jax.models.speech_llm import causal_segment_mask
from acl_jax.models.splash import PackedCausalMask, packed_attention
from acl_jax.runtime import compilation_cache
from acl_jax.sharding.mesh import make_mesh
from acl_jax.tpu import slices, topologies

B, T, N, K, H = 2, 130, 4, 2, 6
IDS = np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], [40, 50, 30, 10], axis=1)


def inputs(shared):
  keys = jax.random.split(jax.random.key(0), 3)
  query = jax.random.normal(keys[0], (B, T, N, H))
  key, value = (jax.random.normal(k, (B, K, shared + T, H)) for k in keys[1:])
  # As in the model, where all rows share the first.
  key, value = (x.at[:, :, :shared].set(x[:1, :, :shared]) for x in (key, value))
  return query, key, value


def signal_of(y):
  return jnp.where((IDS > 0)[..., None, None], y, 0)


def plain(query, key, value):
  _, mask = causal_segment_mask(jnp.asarray(IDS))
  before = key.shape[2] - T
  mask = jnp.pad(mask, ((0, 0), (0, 0), (before, 0)), constant_values=True)
  return signal_of(attention(query, key, value, mask))


def by_kernel(query, key, value):
  packed = PackedCausalMask(jnp.asarray(IDS), per_row=3)
  return signal_of(packed_attention(query, key, value, packed, interpret=True))


def test_the_kernel_computes_what_plain_attention_does():
  given = inputs(shared=0)
  ours, theirs = jax.jit(by_kernel)(*given), plain(*given)
  np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_so_it_does_behind_what_all_rows_share_and_so_are_its_gradients():
  given = inputs(shared=5)
  weights = jax.random.normal(jax.random.key(1), (B, T, N, H))

  def value_and_gradients(attend):
    def loss(*given):
      y = attend(*given)
      return (y * weights).sum(), y

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*given)

  for ours, theirs in zip(
    jax.tree.leaves(value_and_gradients(by_kernel)),
    jax.tree.leaves(value_and_gradients(plain)),
    strict=True,
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_what_is_traced_for_a_cpu_gets_plain_attention():
  assert not splash.is_available()


def test_what_is_traced_for_tpus_gets_the_kernel_cut_along_the_mesh():
  mesh = make_mesh(
    dict(data=1, fsdp=-1, tensor=2),
    topologies.topology_devices(slices.parse_slice('v5e:2x2')),
  )
  shapes = [(B, T, N, H), (B, K, T, H), (B, K, T, H)]
  given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  ids = jax.ShapeDtypeStruct((B, T), jnp.int32)
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  given, ids = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), (given, ids)
  )

  def attend(query, key, value, ids):
    assert splash.is_available()
    return packed_attention(query, key, value, PackedCausalMask(ids, per_row=3))

  with jax.set_mesh(mesh):
    lowered = jax.jit(attend).lower(*given, ids)
  assert 'tpu_custom_call' in lowered.as_text()
  with compilation_cache.disabled():
    lowered.compile()
