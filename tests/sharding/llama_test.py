# SPDX-License-Identifier: Apache-2.0
"""A Llama that is sharded over eight devices decodes and loads as on one."""

import itertools

import jax
import numpy as np
import pytest

from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.quantisation import quantise
from acl_jax.sharding.arrays import put_sharded
from acl_jax.sharding.mesh import make_mesh
from acl_jax.sharding.rules import SHARDING_RULES, shardings
from acl_jax.weights.llama import load_llama, save_llama
from tests import tiny_llama
from tests.sharding.meshes import MESHES

pytestmark = pytest.mark.full  # compiles much


@pytest.mark.parametrize(
  'name, variant', [('all', 'fsdp'), ('data', 'int8'), ('tensor', 'replicated')]
)
def test_the_engine_decodes_as_on_one_device(name, variant):
  llama = tiny_llama.build()
  if variant == 'int8':
    llama = quantise(llama)
  random = np.random.default_rng(0)
  requests = [
    Request(str(i), tuple(random.integers(0, 50, 3 + i).tolist())) for i in range(11)
  ]
  config = EngineConfig(8, 17, 9, DecodeRules(stop_ids=(4,), num_top_tokens=3))

  def decode(llama):
    responses = Engine(llama, config, shared_prefix=(5, 3)).run(requests)
    return {response.request.id: response for response in responses}

  expected = decode(llama)
  rules = SHARDING_RULES['fsdp' if variant == 'fsdp' else 'replicated']
  mesh = make_mesh(MESHES[name])
  with jax.set_mesh(mesh):
    actual = decode(put_sharded(llama, shardings(llama, mesh, rules)))
  assert len(actual) == 11
  for id, response in actual.items():
    assert response.tokens.tolist() == expected[id].tokens.tolist()
    np.testing.assert_allclose(response.log_probs, expected[id].log_probs, atol=1e-5)


@pytest.mark.parametrize(
  'name, rules, dtype',
  [
    *itertools.product(MESHES, SHARDING_RULES, ['float32']),
    ('data', 'replicated', 'int8'),
    ('all', 'fsdp', 'int8'),
  ],
)
def test_weights_are_loaded_in_shards(name, rules, dtype, tmp_path):
  save_llama(tiny_llama.build(), tmp_path)
  expected = load_llama(tmp_path, jax.numpy.dtype(dtype))
  mesh, rules = make_mesh(MESHES[name]), SHARDING_RULES[rules]
  with jax.set_mesh(mesh):
    sharded = load_llama(tmp_path, jax.numpy.dtype(dtype), rules)
  tiny_llama.assert_equal(sharded, expected)
  wanted = jax.tree.leaves(shardings(sharded, mesh, rules))
  for x, sharding in zip(jax.tree.leaves(sharded), wanted, strict=True):
    assert x.sharding.is_equivalent_to(sharding, x.ndim), (x.shape, x.sharding)
