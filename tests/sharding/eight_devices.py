# SPDX-License-Identifier: Apache-2.0
"""Tests that need eight devices; `sharding_test.py` runs them where there are."""

import dataclasses
import itertools

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.int8 import quantise
from acl_jax.models.llama import Llama
from acl_jax.sharding.arrays import put_sharded, to_device
from acl_jax.sharding.mesh import batch_parts, make_mesh
from acl_jax.sharding.rules import (
  SHARDING_RULES,
  constrain,
  constrain_like_parameters,
  shardings,
)
from acl_jax.weights.llama import load_llama, save_llama_hf
from tests import tiny_llama

# Of tensor, at most two heads; of fsdp, what divides a width of 24.
MESHES = {
  'data': dict(data=-1, fsdp=1, tensor=1),
  'fsdp': dict(data=1, fsdp=-1, tensor=1),
  'tensor': dict(data=-1, fsdp=1, tensor=2),
  'all': dict(data=2, fsdp=2, tensor=2),
}


def specs(tree):
  flat = nnx.to_flat_state(nnx.state(tree))
  return {'/'.join(map(str, path)): leaf.get_value().spec for path, leaf in flat}


def abstract(**changes):
  config = dataclasses.replace(tiny_llama.CONFIG, **changes)
  return jax.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))


def test_axes_of_the_mesh():
  sizes = {name: tuple(make_mesh(m).shape.values()) for name, m in MESHES.items()}
  assert sizes == {
    **{'data': (8, 1, 1), 'fsdp': (1, 8, 1), 'tensor': (4, 1, 2), 'all': (2, 2, 2)}
  }
  for name, (data, fsdp, tensor) in sizes.items():
    mesh = make_mesh(MESHES[name])
    assert batch_parts(mesh) == (tuple(range(8 // tensor)), data * fsdp)


@pytest.mark.parametrize(
  'sizes, said',
  [
    ((1, 3, 1), r'data 1 x fsdp 3 x tensor 1; that does not fit 8 devices'),
    ((3, -1, 1), r'data 3 x fsdp -1 x tensor 1; that does not fit 8 devices'),
    ((-1, -1, 1), 'one axis at most can be the rest'),
    ((1, 0, 8), 'config.mesh.fsdp = 0 is neither positive nor -1'),
    ((1, 8.0, 1), 'config.mesh.fsdp = 8.0 is neither positive nor -1'),
  ],
)
def test_a_mesh_that_cannot_be(sizes, said):
  with pytest.raises(ValueError, match=said):
    make_mesh(dict(zip(('data', 'fsdp', 'tensor'), sizes, strict=True)))
  with pytest.raises(ValueError, match="has the axes \\['data', 'model'\\], not"):
    make_mesh({'data': 1, 'model': 8})


class Device:
  """One of a slice of a pod."""

  platform, device_kind, process_index = 'cpu', 'any', 0

  def __init__(self, id, slices):
    self.id, self.slice_index = id, id % slices


def test_several_slices_multiply_data_and_no_other_axis_leaves_a_slice():
  mesh = make_mesh(dict(data=2, fsdp=-1, tensor=3), [Device(i, 4) for i in range(48)])
  assert tuple(mesh.shape.values()) == (8, 2, 3)
  found = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  assert (found == np.arange(8)[:, None, None] // 2).all()


def test_what_is_cut_along_what():
  found = specs(shardings(abstract(), make_mesh(MESHES['all'])))
  layer = 'layers/self_attn/'
  assert found['embed_tokens'] == P('tensor', 'fsdp')
  assert found[layer + 'q_proj'] == P(None, 'fsdp', 'tensor')
  assert found[layer + 'o_proj'] == P(None, 'tensor', None, 'fsdp')
  assert found['layers/input_layernorm'] == found['norm'] == P()
  whole = shardings(abstract(), make_mesh(MESHES['all']), SHARDING_RULES['replicated'])
  assert not any('fsdp' in spec for spec in specs(whole).values())
  assert specs(whole)['layers/mlp/up_proj'] == P(None, None, 'tensor')


def test_an_int8_model_is_cut_as_the_other_but_for_its_scales():
  llama = jax.eval_shape(lambda: quantise(Llama(tiny_llama.CONFIG, rngs=nnx.Rngs(0))))
  found = specs(shardings(llama, make_mesh(MESHES['all'])))
  same = specs(shardings(abstract(), make_mesh(MESHES['all'])))
  layer = 'layers/self_attn/'
  assert found[layer + 'q_proj/value'] == same[layer + 'q_proj']
  assert found[layer + 'q_proj/scale'] == P(None, None, 'tensor')
  assert found['lm_head/scale'] == P(None, 'tensor')


@pytest.mark.parametrize('name', MESHES)
def test_the_optimizer_is_cut_as_its_parameters(name):
  mesh = make_mesh(MESHES[name])
  shapes = nnx.state(abstract())
  made = jax.jit(
    lambda: nnx.state(Llama(tiny_llama.CONFIG, rngs=nnx.Rngs(0))),
    out_shardings=shardings(shapes, mesh),
  )()
  optimizer = optax.adamw(1e-3)
  cut = shardings(jax.eval_shape(optimizer.init, made), mesh)
  state = jax.jit(optimizer.init, out_shardings=cut)(made)
  of = lambda tree: jax.tree.map(lambda x: x.sharding.spec, tree)  # noqa: E731
  assert of(state[0].mu) == of(state[0].nu) == of(made)
  with jax.set_mesh(mesh):
    moved = jax.jit(
      lambda x: constrain_like_parameters(jax.tree.map(jax.numpy.sin, x))
    )(made)
  jax.tree.map(
    lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), moved, made
  )


@pytest.mark.parametrize(
  'name, plan', [('all', 'fsdp'), ('data', 'int8'), ('tensor', 'replicated')]
)
def test_the_engine_answers_as_on_one_device(name, plan):
  llama = tiny_llama.build()
  if plan == 'int8':
    llama = quantise(llama)
  random = np.random.default_rng(0)
  asked = [
    Request(str(i), tuple(random.integers(0, 50, 3 + i).tolist())) for i in range(11)
  ]
  config = EngineConfig(8, 17, 9, DecodeRules(stop_ids=(4,), top=3))

  def answer(llama):
    made = Engine(llama, config, prefix=(5, 3)).run(asked)
    return {response.request.id: response for response in made}

  alone = answer(llama)
  rules = SHARDING_RULES['fsdp' if plan == 'fsdp' else 'replicated']
  mesh = make_mesh(MESHES[name])
  with jax.set_mesh(mesh):
    shared = answer(put_sharded(llama, shardings(llama, mesh, rules)))
  assert len(shared) == 11
  for id, response in shared.items():
    assert response.tokens.tolist() == alone[id].tokens.tolist()
    np.testing.assert_allclose(response.log_probs, alone[id].log_probs, atol=1e-5)


def test_a_batch_is_cut_by_rows():
  batch = {'x': np.arange(24.0).reshape(8, 3), 'prefix': np.arange(5)}
  with jax.set_mesh(make_mesh(MESHES['all'])):
    sent = to_device(batch)
  assert sent['x'].sharding.spec == P(('data', 'fsdp'))
  assert sent['prefix'].sharding.spec == P()
  jax.tree.map(np.testing.assert_array_equal, sent, batch)


@pytest.mark.parametrize(
  'name, plan, dtype',
  [
    *itertools.product(MESHES, SHARDING_RULES, ['float32']),
    ('data', 'replicated', 'int8'),
    ('all', 'fsdp', 'int8'),
  ],
)
def test_weights_are_loaded_in_pieces(name, plan, dtype, tmp_path):
  save_llama_hf(tiny_llama.build(), tmp_path)
  alone = load_llama(tmp_path, jax.numpy.dtype(dtype))
  mesh = make_mesh(MESHES[name])
  with jax.set_mesh(mesh):
    cut = load_llama(tmp_path, jax.numpy.dtype(dtype), SHARDING_RULES[plan])
  tiny_llama.assert_equal(cut, alone)
  wanted = jax.tree.leaves(shardings(cut, mesh, SHARDING_RULES[plan]))
  for x, sharding in zip(jax.tree.leaves(cut), wanted, strict=True):
    assert x.sharding.is_equivalent_to(sharding, x.ndim), (x.shape, x.sharding)


def test_what_no_axis_divides_is_named():
  with pytest.raises(
    ValueError,
    match="layers/self_attn/k_proj: its axis 'kv_heads' of 2 is no multiple of 8, the"
    " size of 'tensor' in config.mesh",
  ):
    shardings(abstract(vocab_size=56), make_mesh(dict(data=1, fsdp=1, tensor=8)))
  with pytest.raises(ValueError, match="embed_tokens: its axis 'embed' of 20 .* of 8"):
    shardings(abstract(hidden_size=20), make_mesh(MESHES['fsdp']))


def test_activations_are_cut_where_a_mesh_is_set():
  add = jax.jit(lambda x: constrain(x + 1, 'batch', 'time', 'vocab'))
  assert len(add(np.ones((8, 3, 4))).sharding.device_set) == 1
  with jax.set_mesh(make_mesh(MESHES['all'])):
    assert add(np.ones((8, 3, 4))).sharding.spec == P(('data', 'fsdp'), None, 'tensor')
    assert add(np.ones((6, 3, 4))).sharding.spec == P(None, None, 'tensor')
