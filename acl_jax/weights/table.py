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
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

Row = tuple[str, str, str]
Sizes = Mapping[str, int]
Model = TypeVar('Model', bound=nnx.Module)


class Tensor(NamedTuple):
  """A tensor, wherever it is: what is known of it, and how to read it."""

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]
  dtype: np.dtype = np.dtype(np.float32)

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


def fill(
  model: Model,
  table: Sequence[Row],
  tensors: Mapping[str, Tensor],
  sizes: Sizes,
  *,
  source: str,
  dtype: DTypeLike,
) -> Model:
  """Fills an abstract model: every tensor is used once, no parameter is left empty.

  Names and shapes are compared before anything is read or allocated; then one parameter
  at a time is read, layer by layer. `source` is the file that an error names.
  dtype: of parameters; what is an integer stays one.
  """
  compare(table, tensors, sizes, source)
  graphdef, state = nnx.split(model)
  empty, full = dict(nnx.to_flat_state(state)), {}
  for name, path, layout in table:
    key = tuple(path.split('/'))
    variable = empty.pop(key)
    whole = jnp.issubdtype(variable.dtype, jnp.integer)
    array = np.empty(variable.shape, variable.dtype if whole else dtype)
    slots = array if '{' in name else array[None]
    for slot, theirs in zip(slots, _names(name, sizes), strict=True):
      slot[...] = _rearrange(tensors[theirs].read(), layout, sizes)
    full[key] = variable.replace(jnp.asarray(array))
  assert not empty, f'no row of the table fills {list(empty)}'
  return nnx.merge(graphdef, nnx.from_flat_state(full))


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
  axes = re.findall(r'\((.*?)\)|(\w)', layout.split('->')[0])
  return tuple(
    math.prod(sizes[letter] for letter in (group or axis).split())
    for group, axis in axes
  )


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
