# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from acl_jax.models.llama import Llama
from acl_jax.models.quantisation import quantise
from acl_jax.sharding.mesh import make_mesh
from acl_jax.sharding.rules import (
  SHARDING_RULES,
  constrain,
  constrain_like_parameters,
  shardings,
)
from tests import tiny_llama
from tests.sharding.meshes import MESHES


def specs(tree):
  flat = nnx.to_flat_state(nnx.state(tree))
  return {'/'.join(map(str, path)): leaf.get_value().spec for path, leaf in flat}


def abstract_llama(**changes):
  config = dataclasses.replace(tiny_llama.CONFIG, **changes)
  return jax.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))


def test_parameters_are_sharded_by_the_rules():
  sharded = specs(shardings(abstract_llama(), make_mesh(MESHES['all'])))
  layer = 'layers/self_attn/'
  assert sharded['embed_tokens'] == P('tensor', 'fsdp')
  assert sharded[layer + 'q_proj'] == P(None, 'fsdp', 'tensor')
  assert sharded[layer + 'o_proj'] == P(None, 'tensor', None, 'fsdp')
  assert sharded['layers/input_layernorm'] == sharded['norm'] == P()
  rules = SHARDING_RULES['replicated']
  replicated = specs(shardings(abstract_llama(), make_mesh(MESHES['all']), rules))
  assert not any('fsdp' in spec for spec in replicated.values())
  assert replicated['layers/mlp/up_proj'] == P(None, None, 'tensor')


def test_int8_values_are_sharded_as_the_matrix_and_scales_along_their_axes():
  llama = jax.eval_shape(lambda: quantise(Llama(tiny_llama.CONFIG, rngs=nnx.Rngs(0))))
  quantised = specs(shardings(llama, make_mesh(MESHES['all'])))
  expected = specs(shardings(abstract_llama(), make_mesh(MESHES['all'])))
  layer = 'layers/self_attn/'
  assert quantised[layer + 'q_proj/value'] == expected[layer + 'q_proj']
  assert quantised[layer + 'q_proj/scale'] == P(None, None, 'tensor')
  assert quantised['lm_head/scale'] == P(None, 'tensor')


@pytest.mark.parametrize('name', MESHES)
def test_optimizer_state_is_sharded_as_its_parameters(name):
  mesh = make_mesh(MESHES[name])
  parameters = jax.jit(
    lambda: nnx.state(Llama(tiny_llama.CONFIG, rngs=nnx.Rngs(0))),
    out_shardings=shardings(nnx.state(abstract_llama()), mesh),
  )()
  optimizer = optax.adamw(1e-3)
  out_shardings = shardings(jax.eval_shape(optimizer.init, parameters), mesh)
  state = jax.jit(optimizer.init, out_shardings=out_shardings)(parameters)

  def specs_of(tree):
    return jax.tree.map(lambda x: x.sharding.spec, tree)

  assert specs_of(state[0].mu) == specs_of(state[0].nu) == specs_of(parameters)
  with jax.set_mesh(mesh):
    updated = jax.jit(
      lambda x: constrain_like_parameters(jax.tree.map(jax.numpy.sin, x))
    )(parameters)
  equivalent = jax.tree.map(
    lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), updated, parameters
  )
  assert all(jax.tree.leaves(equivalent))


def test_an_axis_that_the_mesh_does_not_divide_is_refused_by_name():
  with pytest.raises(
    ValueError,
    match=r"layers/self_attn/k_proj: .*'kv_heads'.* 2, .* 8, .*'tensor'.*config\.mesh",
  ):
    mesh = make_mesh(dict(data=1, fsdp=1, tensor=8))
    shardings(abstract_llama(vocab_size=56), mesh)
  with pytest.raises(ValueError, match="embed_tokens: .*'embed'.* 20, .* 8, "):
    shardings(abstract_llama(hidden_size=20), make_mesh(MESHES['fsdp']))


def test_activations_are_sharded_in_a_mesh_only():
  add = jax.jit(lambda x: constrain(x + 1, 'batch', 'time', 'vocab'))
  assert len(add(np.ones((8, 3, 4))).sharding.device_set) == 1
  with jax.set_mesh(make_mesh(MESHES['all'])):
    assert add(np.ones((8, 3, 4))).sharding.spec == P(('data', 'fsdp'), None, 'tensor')
    assert add(np.ones((6, 3, 4))).sharding.spec == P(None, None, 'tensor')
