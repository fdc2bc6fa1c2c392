# SPDX-License-Identifier: Apache-2.0
"""Sharding rules: the mesh axes of every logical axis.

Parameters name their logical axes where they are created (`models.layers.param`),
activations where they are constrained. Two tables map the names to mesh axes.
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
  'rank': None,
}
# `config.llama.sharding`: the frozen LLM is sharded over `fsdp` and gathered layer by
# layer, or replicated over it, so that its weights are never communicated.
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
  'pages': None,
}
HIDDEN_AXES = ('batch', 'time', 'embed')  # of activations between layers


def sharding_rules(name: str) -> ShardingRules:
  """Return the rules of `config.llama.sharding`."""
  if name not in SHARDING_RULES:
    raise ValueError(
      f'config.llama.sharding is {name!r}; choose from'
      f' {", ".join(sorted(SHARDING_RULES))}'
    )
  return SHARDING_RULES[name]


def shardings(
  tree: Tree, mesh: Mesh | AbstractMesh, rules: ShardingRules = PARAMETERS
) -> Tree:
  """Return the sharding of every array of a model or an optimizer state.

  The tree may be abstract. Raises ValueError for an axis of a parameter that the mesh
  does not divide.
  """

  def sharding_of(path, leaf):
    spec = _parameter_spec(path, leaf, mesh, rules)
    sharding = NamedSharding(mesh, spec)
    return leaf.replace(sharding) if isinstance(leaf, nnx.Variable) else sharding

  return jax.tree_util.tree_map_with_path(sharding_of, tree, is_leaf=_is_variable)


def constrain_like_parameters(tree: Tree) -> Tree:
  """Within jit, shard `tree`, gradients or updated parameters, as parameters."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return tree
  return jax.lax.with_sharding_constraint(tree, shardings(tree, mesh))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
  """Within jit, shard an activation by its logical axes; unchanged without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(
    x, NamedSharding(mesh, partition_spec(x, *axes))
  )


def partition_spec(x: jax.Array, *axes: str) -> P:
  """Return the mesh axes of an activation with these logical axes in the current mesh.

  An axis that the mesh does not divide, such as the one row of a prefix, is replicated.
  """
  mesh = jax.sharding.get_abstract_mesh()
  mesh_axes = []
  for axis, size in zip(axes, x.shape, strict=True):
    names = ACTIVATIONS[axis]
    divides = names and size % _axis_size(mesh, names) == 0
    mesh_axes.append(names if divides else None)
  return P(*mesh_axes)


def _parameter_spec(
  path, leaf: Any, mesh: Mesh | AbstractMesh, rules: ShardingRules
) -> P:
  axes = leaf.get_metadata().get('axes', ()) if _is_variable(leaf) else ()
  if len(axes) < 2:
    return P()  # a vector is too small to be worth gathering
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  stacked = len(leaf.shape) - len(axes)  # leading axes of stacked layers
  for axis, size in zip(axes, leaf.shape[stacked:], strict=True):
    mesh_axis = rules[axis] if axis else None
    if mesh_axis and size % mesh.shape[mesh_axis]:
      raise ValueError(
        f'{name}: axis {axis!r} has size {size}, which is not a multiple of'
        f' {mesh.shape[mesh_axis]}, the size of {mesh_axis!r} in config.mesh'
      )
  spec = [None] * stacked + [_mesh_axis(axis, mesh, rules) for axis in axes]
  while spec and spec[-1] is None:  # XLA's normal form; otherwise a step compiles twice
    spec.pop()
  return P(*spec)


def _mesh_axis(
  axis: str | None, mesh: Mesh | AbstractMesh, rules: ShardingRules
) -> str | None:
  mesh_axis = rules[axis] if axis else None
  return mesh_axis if mesh_axis and mesh.shape[mesh_axis] > 1 else None


def _axis_size(mesh: Mesh | AbstractMesh, mesh_axes: str | tuple[str, ...]) -> int:
  names = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
  return math.prod(mesh.shape[name] for name in names)


def _is_variable(leaf: Any) -> bool:
  return isinstance(leaf, nnx.Variable)
