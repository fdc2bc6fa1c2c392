# SPDX-License-Identifier: Apache-2.0
"""Name tables: rows of (their name, our path, layout), for import and export alike.

A layout is an einops pattern, theirs -> ours, whose letters stand for `sizes`. Read
left-to-right a table imports, read right-to-left it exports. `{}` in their name is the
number of the layer; ours are stacked, layer axis in front.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import einops
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

Row = tuple[str, str, str]
Sizes = Mapping[str, int]
Model = TypeVar('Model', bound=nnx.Module)


class Tensor(NamedTuple):
  """A foreign tensor: its shape, known from a header, and how to read it."""

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


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
  """
  if sizes['l'] > len(tensors):
    raise ValueError(f'{source}: {sizes["l"]} layers, but only {len(tensors)} tensors')
  expected = {
    theirs: foreign_shape(layout, sizes)
    for name, _, layout in table
    for theirs in _names(name, sizes)
  }
  _compare(expected, tensors, source)
  graphdef, state = nnx.split(model)
  empty, full = dict(nnx.to_flat_state(state)), {}
  for name, path, layout in table:
    key = tuple(path.split('/'))
    variable = empty.pop(key)
    array = np.empty(variable.shape, dtype)
    slots = array if '{}' in name else array[None]
    for slot, theirs in zip(slots, _names(name, sizes), strict=True):
      slot[...] = _rearrange(tensors[theirs].read(), layout, sizes)
    full[key] = variable.replace(jnp.asarray(array))
  assert not empty, f'no row of the table fills {list(empty)}'
  return nnx.merge(graphdef, nnx.from_flat_state(full))


def export(
  model: nnx.Module, table: Sequence[Row], sizes: Sizes
) -> Iterator[tuple[str, np.ndarray]]:
  """The inverse of `fill`: their names and tensors."""
  ours = dict(nnx.to_flat_state(nnx.state(model)))
  for name, path, layout in table:
    array = np.asarray(ours.pop(tuple(path.split('/')))[...])
    slots = array if '{}' in name else array[None]
    inverse = ' -> '.join(reversed(layout.split(' -> ')))
    for slot, theirs in zip(slots, _names(name, sizes), strict=True):
      yield theirs, np.ascontiguousarray(_rearrange(slot, inverse, sizes))
  assert not ours, f'no row of the table exports {list(ours)}'


def foreign_shape(layout: str, sizes: Sizes) -> tuple[int, ...]:
  """The shape that the left side of a layout asks for."""
  axes = re.findall(r'\((.*?)\)|(\w)', layout.split('->')[0])
  return tuple(
    math.prod(sizes[letter] for letter in (group or axis).split())
    for group, axis in axes
  )


def _names(name: str, sizes: Sizes) -> list[str]:
  return [name.format(i) for i in range(sizes['l'])] if '{}' in name else [name]


def _rearrange(array: np.ndarray, layout: str, sizes: Sizes) -> np.ndarray:
  letters = {letter: sizes[letter] for letter in re.findall(r'\w', layout)}
  return einops.rearrange(array, layout, **letters)


def _compare(
  expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], source: str
) -> None:
  """Raises unless `tensors` have exactly the expected names and shapes."""
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
