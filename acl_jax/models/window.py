# SPDX-License-Identifier: Apache-2.0
"""Sliding windows: each query attends to the last few of the keys that it could see."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from acl_jax.models.cache import CacheMask
from acl_jax.models.splash import PackedCausalMask


def last_keys(mask: Bool[Array, 'b t s'], window: int) -> Bool[Array, 'b t s']:
  """Keep the last `window` keys of each query: those nearest to it, itself included.

  Keys are counted as the mask shows them, so packing, padding in between and a shared
  prefix need no positions.
  """
  if mask.shape[2] <= window:
    return mask
  from_here = jnp.cumsum(mask[..., ::-1], axis=2, dtype=jnp.int32)[..., ::-1]
  return mask & (from_here <= window)


def is_among(layer: Int[Array, ''] | int, layers: tuple[int, ...]) -> Bool[Array, '']:
  """Return whether the index of a layer is one of `layers`."""
  return (jnp.array(layers) == layer).any()


def layer_masks(
  mask: Bool[Array, 'b t s'] | PackedCausalMask,
  window: int | None,
  full_layers: tuple[int, ...],
  cached: bool,
) -> Callable[[Int[Array, '']], Any]:
  """Return a function from the index of a layer to its attention mask.

  window: as `LlamaConfig.sliding_window`. full_layers: indices of layers without it.
  cached: whether layers attend to a cache, which takes a `CacheMask`.
  """
  if isinstance(mask, PackedCausalMask):
    local = mask._replace(window=window)
    if window is None or not full_layers:
      return lambda _: local
    return lambda i: local._replace(ignores_window=is_among(i, full_layers))
  full: Any = CacheMask.from_mask(mask) if cached else mask
  if window is None:
    return lambda _: full
  mask = last_keys(mask, window)
  windowed: Any = CacheMask.from_mask(mask) if cached else mask
  if not full_layers:
    return lambda _: windowed

  def choose(layer: Int[Array, '']) -> Any:
    is_full = is_among(layer, full_layers)
    return jax.tree.map(lambda x, y: jnp.where(is_full, x, y), full, windowed)

  return choose
