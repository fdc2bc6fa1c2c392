# SPDX-License-Identifier: Apache-2.0
"""Who holds what of every array: from the names of its axes to the axes of the mesh.

Parameters name their axes where they are made (`models.layers.param`), activations
where they are constrained. Two tables say along which mesh axis each name is cut.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Tree = TypeVar('Tree')
ShardingRules = Mapping[str, str | None]

PARAMETERS: ShardingRules = {
  'embed': 'fsdp',
  'heads': 'tensor',
  'kv_heads': 'tensor',
  'mlp': 'tensor',
  'vocab': 'tensor',
  'channels': None,
  'classes': None,
  'conv': None,
  'head_dim': None,
  'llm': None,
  'mels': None,
  'positions': None,
}
# `config.llama.sharding`: the frozen LLM in pieces that are gathered layer by layer, or
# whole on every device (but for `tensor`), so that none of its weights ever travel.
SHARDING_RULES: Mapping[str, ShardingRules] = {
  'fsdp': PARAMETERS,
  'replicated': {**PARAMETERS, 'embed': None},
}
BATCH_AXES = ('data', 'fsdp')
ACTIVATIONS: Mapping[str, str | tuple[str, ...] | None] = {
  'batch': BATCH_AXES,
  'time': None,
  'embed': None,
  'heads': 'tensor',
  'kv_heads': 'tensor',
  'head_dim': None,
  'mlp': 'tensor',
  'vocab': 'tensor',
  'layers': None,
}
HIDDEN_AXES = ('batch', 'time', 'embed')  # of the activations between a tower's layers


def sharding_rules(name: str) -> ShardingRules:
  """The rules of `config.llama.sharding`."""
  if name not in SHARDING_RULES:
    raise ValueError(
      f'config.llama.sharding is {name!r}; known: {", ".join(sorted(SHARDING_RULES))}'
    )
  return SHARDING_RULES[name]


def shardings(
  tree: Tree, mesh: Mesh | AbstractMesh, rules: ShardingRules = PARAMETERS
) -> Tree:
  """The sharding of every array: of a model, abstract or not, of its optimizer's state.

  ValueError for a parameter with an axis that the mesh does not divide.
  """

  def of(path, leaf):
    spec = _parameter_spec(path, leaf, mesh, rules)
    sharding = NamedSharding(mesh, spec)
    return leaf.replace(sharding) if isinstance(leaf, nnx.Variable) else sharding

  return jax.tree_util.tree_map_with_path(of, tree, is_leaf=_is_variable)


def constrain_like_parameters(tree: Tree) -> Tree:
  """Within a jit: `tree`, an update of parameters, sharded as they are."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return tree
  return jax.lax.with_sharding_constraint(tree, shardings(tree, mesh))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
  """Within a jit: an activation, cut along the mesh axes of its logical ones.

  Nothing, where no mesh is set.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(
    x, NamedSharding(mesh, partition_spec(x, *axes))
  )


def partition_spec(x: jax.Array, *axes: str) -> P:
  """The mesh axes of an activation with these logical ones, in the mesh that is set.

  What they do not divide, such as the one row of a prefix, is on every device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  found = [ACTIVATIONS[axis] for axis in axes]
  return P(
    *(
      names if names and size % _axis_size(mesh, names) == 0 else None
      for names, size in zip(found, x.shape, strict=True)
    )
  )


def _parameter_spec(
  path, leaf: Any, mesh: Mesh | AbstractMesh, rules: ShardingRules
) -> P:
  axes = leaf.get_metadata().get('axes', ()) if _is_variable(leaf) else ()
  if len(axes) < 2:
    return P()  # a vector weighs less than it costs to gather it
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  stacked = len(leaf.shape) - len(axes)  # layers stand in front
  for axis, size in zip(axes, leaf.shape[stacked:], strict=True):
    along = rules[axis] if axis else None
    if along and size % mesh.shape[along]:
      raise ValueError(
        f'{name}: its axis {axis!r} of {size} is no multiple of {mesh.shape[along]},'
        f' the size of {along!r} in config.mesh'
      )
  cut = [None] * stacked + [_mesh_axis(axis, mesh, rules) for axis in axes]
  while cut and cut[-1] is None:  # as XLA would write it: else a step compiles twice
    cut.pop()
  return P(*cut)


def _mesh_axis(
  axis: str | None, mesh: Mesh | AbstractMesh, rules: ShardingRules
) -> str | None:
  along = rules[axis] if axis else None
  return along if along and mesh.shape[along] > 1 else None


def _axis_size(mesh: Mesh | AbstractMesh, along: str | tuple[str, ...]) -> int:
  names = (along,) if isinstance(along, str) else along
  return math.prod(mesh.shape[name] for name in names)


def _is_variable(leaf: Any) -> bool:
  return isinstance(leaf, nnx.Variable)
