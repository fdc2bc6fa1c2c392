# SPDX-License-Identifier: Apache-2.0
"""Random weights for tiny models, without a compiled program for each shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from acl_jax.models.speech_llm import SpeechLLM


def fill(create: Callable[[], SpeechLLM], scale: float, seed: int) -> SpeechLLM:
  """Return the model that `create` makes, with normal weights and norms of 1."""
  rng = np.random.default_rng(seed)

  def fill_leaf(path, leaf):
    if leaf.dtype == np.int32:
      return jnp.arange(270, 270 + leaf.size)  # the vocabulary
    if leaf.dtype == np.uint8:
      return jnp.asarray(rng.integers(0, 31, leaf.shape), leaf.dtype)  # its spellings
    if 'norm' in jax.tree_util.keystr(path):
      return jnp.ones(leaf.shape)
    return jnp.asarray(rng.normal(size=leaf.shape) * scale, jnp.float32)

  return jax.tree_util.tree_map_with_path(fill_leaf, jax.eval_shape(create))


def draw(create: Callable[[], nnx.Module], seed: int = 0, scale=0.02):
  """Return the module that `create` makes, with normal parameters and norms of 1."""
  rng = np.random.default_rng(seed)

  def draw_leaf(path, leaf):
    if 'norm' in jax.tree_util.keystr(path):
      return jnp.asarray(np.ones(leaf.shape, leaf.dtype))
    return jnp.asarray(rng.normal(size=leaf.shape) * scale, leaf.dtype)

  graphdef, params, _ = nnx.split(jax.eval_shape(create), nnx.Param, ...)
  rest = jax.jit(lambda: nnx.split(create(), nnx.Param, ...)[2])()
  return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(draw_leaf, params), rest)
