# SPDX-License-Identifier: Apache-2.0
"""Name tables: rows of (their name, our path, layout), for import and export alike.

A layout is an einops pattern, theirs -> ours, whose letters stand for `sizes`. Read
left-to-right a table imports, read right-to-left it exports. `{}` in their name is the
number of the layer, of which there are `sizes['l']`, or `{r}` of `sizes['r']`; ours are
stacked, layer axis in front.
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
from acl_jax.weights.pieces import Index, place

Row = tuple[str, str, str]
Sizes = Mapping[str, int]
Model = TypeVar('Model', bound=nnx.Module)


class Tensor(NamedTuple):
  """A tensor, wherever it is: what is known of it, and how to read it.

  read_part: how to read some of it only, where its file allows that.
  """

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]
  dtype: np.dtype = np.dtype(np.float32)
  read_part: Callable[[Index], np.ndarray] | None = None

  @classmethod
  def of(cls, array: np.ndarray) -> 'Tensor':
    """One that has been read."""
    return cls(array.shape, lambda: array, array.dtype)

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def astype(self, dtype: DTypeLike) -> 'Tensor':
    """The same numbers as `dtype`, unless they are integers."""
    dtype = np.dtype(dtype) if jnp.issubdtype(self.dtype, np.floating) else self.dtype
    return Tensor(self.shape, lambda: self.read().astype(dtype, copy=False), dtype)

  def part(self, index: Index) -> np.ndarray:
    """Some of it, from start to stop along every axis."""
    whole = all(
      (part.start, part.stop) == (0, size)
      for part, size in zip(index, self.shape, strict=True)
    )
    if whole or self.read_part is None:
      return self.read()[index]
    return self.read_part(index)


def fill(
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
  """Fills an abstract model: every tensor is used once, no parameter is left empty.

  Names and shapes are compared before anything is read or allocated; then one parameter
  at a time is read, layer by layer. Where a mesh is set, it is read in the pieces that
  `rules` give to the devices of this process, and no others.
  source: the file that an error names. convert: what to make of each parameter, by its
    name, before the next is read. dtype: of parameters; what is an integer stays one.
  """
  compare(table, tensors, sizes, source)
  mesh, state = jax.sharding.get_mesh(), nnx.state(model)
  empty, cuts = dict(nnx.to_flat_state(state)), {}
  if not mesh.empty:
    cuts = dict(nnx.to_flat_state(shardings(state, mesh, rules)))
  for name, path, layout in table:
    *parents, last = key = tuple(path.split('/'))
    variable = empty.pop(key)
    layers = [tensors[theirs] for theirs in _names(name, sizes)]
    layers = layers if '{' in name else layers[0]

    whole = jnp.issubdtype(variable.dtype, jnp.integer)
    kind = variable.dtype if whole else dtype

    def read(index: Index, layers=layers, layout=layout, kind=kind) -> np.ndarray:
      array = np.empty([part.stop - part.start for part in index], kind)
      if isinstance(layers, Tensor):
        array[...] = _read_part(layers, layout, index, sizes)
        return array
      for slot, tensor in zip(array, layers[index[0]], strict=True):
        slot[...] = _read_part(tensor, layout, index[1:], sizes)
      return array

    array = place(variable.shape, cuts.get(key), read)
    full = variable.replace(array)
    parent = functools.reduce(getattr, parents, model)
    setattr(parent, last, convert(last, full) if convert else full)
  assert not empty, f'no row of the table fills {list(empty)}'
  return model


def _read_part(tensor: Tensor, layout: str, index: Index, sizes: Sizes) -> np.ndarray:
  """Some of our array, by reading no more of theirs than that needs.

  What stands first in an axis of theirs is cut there; the rest is cut of what was read.
  """
  theirs, ours = (_axes(side) for side in layout.split('->'))
  cut = {axis: part for axis, part in zip(ours, index, strict=True) if len(axis) == 1}
  wanted, lengths = [], dict(sizes)
  for first, *rest in theirs:
    inner = math.prod(sizes[letter] for letter in rest)
    part = cut.get((first,), slice(0, sizes[first]))
    wanted.append(slice(part.start * inner, part.stop * inner))
    lengths[first] = part.stop - part.start
  array = _rearrange(tensor.part(tuple(wanted)), layout, lengths)
  done = {(first,) for first, *_ in theirs}
  return array[
    tuple(
      slice(None) if axis in done else part
      for axis, part in zip(ours, index, strict=True)
    )
  ]


def export(
  model: nnx.Module, table: Sequence[Row], sizes: Sizes
) -> Iterator[tuple[str, Tensor]]:
  """The inverse of `fill`: their names and tensors."""
  ours = dict(nnx.to_flat_state(nnx.state(model)))
  for name, path, layout in table:
    variable = ours.pop(tuple(path.split('/')))
    for number, theirs in enumerate(_names(name, sizes)):
      part = number if '{' in name else ...
      read = functools.partial(_read, variable, part, _inverse(layout), sizes)
      dtype = np.dtype(variable.dtype)
      yield theirs, Tensor(foreign_shape(layout, sizes), read, dtype)
  assert not ours, f'no row of the table exports {list(ours)}'


def translate(
  tensors: Mapping[str, Tensor],
  source: Sequence[Row],
  target: Sequence[Row],
  sizes: Sizes,
) -> Iterator[tuple[str, Tensor]]:
  """From one foreign format to another, by two tables of the same parameters."""
  rows = {path: (name, layout) for name, path, layout in source}
  for name, path, layout in target:
    before, way_in = rows[path]
    pairs = zip(_names(before, sizes), _names(name, sizes), strict=True)
    for old, new in pairs:
      tensor = tensors[old]
      read = functools.partial(_relay, tensor, way_in, _inverse(layout), sizes)
      yield new, Tensor(foreign_shape(layout, sizes), read, tensor.dtype)


def read_ours(
  tensors: Mapping[str, Tensor], table: Sequence[Row], path: str, sizes: Sizes
) -> Iterator[np.ndarray]:
  """One parameter in our layout, layer by layer if there are layers."""
  ((name, layout),) = ((name, layout) for name, ours, layout in table if ours == path)
  for theirs in _names(name, sizes):
    yield _rearrange(tensors[theirs].read(), layout, sizes)


def foreign_shape(layout: str, sizes: Sizes) -> tuple[int, ...]:
  """The shape that the left side of a layout asks for."""
  axes = _axes(layout.split('->')[0])
  return tuple(math.prod(sizes[letter] for letter in axis) for axis in axes)


def _axes(side: str) -> list[tuple[str, ...]]:
  """The letters of every axis on one side of a layout."""
  found = re.findall(r'\((.*?)\)|(\w)', side)
  return [tuple((group or axis).split()) for group, axis in found]


def _names(name: str, sizes: Sizes) -> list[str]:
  """Those of all layers, if it is the name of a layer's."""
  if not (count := re.search(r'\{(\w?)\}', name)):
    return [name]
  return [name.replace(count[0], str(i)) for i in range(sizes[count[1] or 'l'])]


def _inverse(layout: str) -> str:
  return ' -> '.join(reversed(layout.split(' -> ')))


def _read(variable: nnx.Variable, part: Any, layout: str, sizes: Sizes) -> np.ndarray:
  return np.ascontiguousarray(_rearrange(np.asarray(variable[part]), layout, sizes))


def _relay(tensor: Tensor, way_in: str, way_out: str, sizes: Sizes) -> np.ndarray:
  array = _rearrange(tensor.read(), way_in, sizes)
  return np.ascontiguousarray(_rearrange(array, way_out, sizes))


def _rearrange(array: np.ndarray, layout: str, sizes: Sizes) -> np.ndarray:
  letters = {letter: sizes[letter] for letter in re.findall(r'\w', layout)}
  return einops.rearrange(array, layout, **letters)


def compare(
  table: Sequence[Row], tensors: Mapping[str, Tensor], sizes: Sizes, source: str
) -> None:
  """Raises unless `tensors` have exactly the names and shapes that a table asks for."""
  if sizes['l'] > len(tensors):
    raise ValueError(f'{source}: {sizes["l"]} layers, but only {len(tensors)} tensors')
  expected = {
    theirs: foreign_shape(layout, sizes)
    for name, _, layout in table
    for theirs in _names(name, sizes)
  }
  if missing := sorted(expected.keys() - tensors.keys()):
    raise ValueError(f'{source}: no tensor {missing[0]} ({len(missing)} missing)')
  if stray := sorted(tensors.keys() - expected.keys()):
    raise ValueError(f'{source}: nothing takes {stray[0]} ({len(stray)} such tensors)')
  for name, shape in expected.items():
    if tensors[name].shape != shape:
      raise ValueError(
        f'{source}: {name} has shape {tensors[name].shape}, the configuration'
        f' asks for {shape}'
      )
