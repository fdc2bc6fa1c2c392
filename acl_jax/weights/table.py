# SPDX-License-Identifier: Apache-2.0
"""Imports and exports parameters by name tables with rows (tensor, parameter, layout).

A row has the name of a tensor in a file, the path of a parameter in our model and an
einops pattern, tensor axes -> parameter axes, whose letters have the given `sizes`. The
same table imports from left to right and exports from right to left. `{}` in a tensor
name stands for the index of a layer, of which there are `sizes['l']`; `{r}` stands for
one of `sizes['r']`. Our parameters are stacked along a leading layer axis.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.sharding.rules import PARAMETERS, ShardingRules, shardings
from acl_jax.weights.sharded_read import Index, read_sharded
from acl_jax.weights.tensor import Tensor

Row = tuple[str, str, str]
Sizes = Mapping[str, int]


class Names(NamedTuple):
  """The table of a model in one format, and its axis sizes."""

  rows: Sequence[Row]
  sizes: Sizes


Model = TypeVar('Model', bound=nnx.Module)


def import_tensors(
  model: Model,
  table: Sequence[Row],
  tensors: Mapping[str, Tensor],
  sizes: Sizes,
  *,
  source: str,
  dtype: DTypeLike,
  rules: ShardingRules = PARAMETERS,
  convert: Callable[[str, nnx.Variable], nnx.Variable | nnx.Module] | None = None,
) -> Model:
  """Fill an abstract model with tensors; each is used once, and no parameter is missed.

  Names and shapes are checked before anything is read or allocated. Parameters are then
  read one at a time, layer by layer; with a mesh set, only the shards that `rules`
  assign to the devices of this process.
  source: the file that errors name.
  dtype: of the parameters; integer parameters keep theirs.
  convert: called with each parameter's name and value before the next one is read;
    returns what the model holds instead.
  """
  check_tensors(table, tensors, sizes, source)
  mesh, state = jax.sharding.get_mesh(), nnx.state(model)
  remaining, sharding_of = dict(nnx.to_flat_state(state)), {}
  if not mesh.empty:
    sharding_of = dict(nnx.to_flat_state(shardings(state, mesh, rules)))
  for name, path, layout in table:
    *parents, attribute = key = tuple(path.split('/'))
    variable = remaining.pop(key)
    layers = [tensors[tensor_name] for tensor_name in _expand_layers(name, sizes)]
    is_integer = jnp.issubdtype(variable.dtype, jnp.integer)
    read = functools.partial(
      _read_parameter,
      layers if '{' in name else layers[0],
      layout,
      sizes,
      variable.dtype if is_integer else dtype,
    )
    array = read_sharded(variable.shape, sharding_of.get(key), read)
    value = variable.replace(array)
    parent = functools.reduce(getattr, parents, model)
    setattr(parent, attribute, convert(attribute, value) if convert else value)
  assert not remaining, f'the table has no row for {list(remaining)}'
  return model


def _read_parameter(
  source: Tensor | list[Tensor],
  layout: str,
  sizes: Sizes,
  dtype: DTypeLike,
  index: Index,
) -> np.ndarray:
  """Read the slice at `index` of a parameter: one tensor, or stacked layers."""
  array = np.empty([part.stop - part.start for part in index], dtype)
  if isinstance(source, Tensor):
    array[...] = _read_parameter_slice(source, layout, index, sizes)
    return array
  for layer, tensor in zip(array, source[index[0]], strict=True):
    layer[...] = _read_parameter_slice(tensor, layout, index[1:], sizes)
  return array


def _read_parameter_slice(
  tensor: Tensor, layout: str, index: Index, sizes: Sizes
) -> np.ndarray:
  """Read the slice at `index` of a parameter from as little of its tensor as possible.

  A parameter axis that comes first in a tensor axis is sliced while reading, the others
  afterwards.
  """
  tensor_axes, axes = (parse_axes(side) for side in layout.split('->'))
  slices = {
    axis: part for axis, part in zip(axes, index, strict=True) if len(axis) == 1
  }
  tensor_index, sliced_sizes = [], dict(sizes)
  for first, *rest in tensor_axes:
    stride = math.prod(sizes[letter] for letter in rest)
    part = slices.get((first,), slice(0, sizes[first]))
    tensor_index.append(slice(part.start * stride, part.stop * stride))
    sliced_sizes[first] = part.stop - part.start
  array = _rearrange(tensor.read_slice(tuple(tensor_index)), layout, sliced_sizes)
  sliced_axes = {(first,) for first, *_ in tensor_axes}
  return array[
    tuple(
      slice(None) if axis in sliced_axes else part
      for axis, part in zip(axes, index, strict=True)
    )
  ]


def export_tensors(
  model: nnx.Module, table: Sequence[Row], sizes: Sizes
) -> Iterator[tuple[str, Tensor]]:
  """Yield the names and tensors of a model: the inverse of `import_tensors`."""
  remaining = dict(nnx.to_flat_state(nnx.state(model)))
  for name, path, layout in table:
    variable = remaining.pop(tuple(path.split('/')))
    for layer, tensor_name in enumerate(_expand_layers(name, sizes)):
      index = layer if '{' in name else ...
      read = functools.partial(_to_tensor, variable, index, _invert(layout), sizes)
      dtype = np.dtype(variable.dtype)
      yield tensor_name, Tensor(tensor_shape(layout, sizes), read, dtype)
  assert not remaining, f'the table has no row for {list(remaining)}'


def convert_tensors(
  tensors: Mapping[str, Tensor],
  source: Sequence[Row],
  target: Sequence[Row],
  sizes: Sizes,
) -> Iterator[tuple[str, Tensor]]:
  """Yield the tensors in another format, given the tables of both formats."""
  rows = {path: (name, layout) for name, path, layout in source}
  for name, path, layout in target:
    source_name, source_layout = rows[path]
    old_names, new_names = (_expand_layers(n, sizes) for n in (source_name, name))
    for old, new in zip(old_names, new_names, strict=True):
      tensor = tensors[old]
      layouts = source_layout, _invert(layout)
      read = functools.partial(_convert_tensor, tensor, layouts, sizes)
      yield new, Tensor(tensor_shape(layout, sizes), read, tensor.dtype)


def import_layers(
  tensors: Mapping[str, Tensor], table: Sequence[Row], path: str, sizes: Sizes
) -> Iterator[np.ndarray]:
  """Yield the layers of the parameter at `path`, or the parameter if it has none."""
  ((name, layout),) = ((name, layout) for name, key, layout in table if key == path)
  for tensor_name in _expand_layers(name, sizes):
    yield _rearrange(tensors[tensor_name].read(), layout, sizes)


def tensor_shape(layout: str, sizes: Sizes) -> tuple[int, ...]:
  """Return the shape of the left side of a layout."""
  axes = parse_axes(layout.split('->')[0])
  return tuple(math.prod(sizes[letter] for letter in axis) for axis in axes)


def parse_axes(side: str) -> list[tuple[str, ...]]:
  """Return the letters of each axis on one side of a layout."""
  matches = re.findall(r'\((.*?)\)|(\w)', side)
  return [tuple((group or letter).split()) for group, letter in matches]


def _expand_layers(name: str, sizes: Sizes) -> list[str]:
  """Return the tensor names of all layers, or `name` alone if it has no layer index."""
  if not (match := re.search(r'\{(\w?)\}', name)):
    return [name]
  return [name.replace(match[0], str(i)) for i in range(sizes[match[1] or 'l'])]


def _invert(layout: str) -> str:
  return ' -> '.join(reversed(layout.split(' -> ')))


def _to_tensor(
  variable: nnx.Variable, index: Any, layout: str, sizes: Sizes
) -> np.ndarray:
  return np.ascontiguousarray(_rearrange(np.asarray(variable[index]), layout, sizes))


def _convert_tensor(
  tensor: Tensor, layouts: tuple[str, str], sizes: Sizes
) -> np.ndarray:
  array = tensor.read()
  for layout in layouts:
    array = _rearrange(array, layout, sizes)
  return np.ascontiguousarray(array)


def _rearrange(array: np.ndarray, layout: str, sizes: Sizes) -> np.ndarray:
  lengths = {letter: sizes[letter] for letter in re.findall(r'\w', layout)}
  return einops.rearrange(array, layout, **lengths)


def check_tensors(
  table: Sequence[Row], tensors: Mapping[str, Tensor], sizes: Sizes, source: str
) -> None:
  """Raise ValueError unless `tensors` have exactly the names and shapes of a table."""
  if sizes['l'] > len(tensors):
    raise ValueError(f'{source}: {sizes["l"]} layers but only {len(tensors)} tensors')
  expected = {
    tensor_name: tensor_shape(layout, sizes)
    for name, _, layout in table
    for tensor_name in _expand_layers(name, sizes)
  }
  if missing := sorted(expected.keys() - tensors.keys()):
    raise ValueError(
      f'{source}: tensor {missing[0]} is missing ({len(missing)} missing in total)'
    )
  if unexpected := sorted(tensors.keys() - expected.keys()):
    raise ValueError(
      f'{source}: unexpected tensor {unexpected[0]} ({len(unexpected)} in total)'
    )
  for name, shape in expected.items():
    if tensors[name].shape != shape:
      raise ValueError(
        f'{source}: tensor {name} has shape {tensors[name].shape}; the configuration'
        f' requires {shape}'
      )
