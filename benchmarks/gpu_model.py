# SPDX-License-Identifier: Apache-2.0
"""What benchmarks of one accelerator share: random weights, peaks and timing."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models.llama import Llama
from acl_jax.models.llama_config import LlamaConfig
from acl_jax.models.quantisation import is_quantised, quantise

# Dense bfloat16 operations and bytes per second, as the maker states them.
PEAKS = {
  'NVIDIA H200': (989e12, 4.8e12),
  'NVIDIA H100 80GB HBM3': (989e12, 3.35e12),
  'NVIDIA A100-SXM4-80GB': (312e12, 2.04e12),
}
STANDARD_DEVIATION = 0.02  # of random weights; activations stay finite


def random_llama(config: LlamaConfig, dtype: DTypeLike) -> Llama:
  """Return a model with random weights, made one by one; int8 is quantised bfloat16."""
  make = lambda: nnx.split(Llama(config, rngs=nnx.Rngs(0)))  # noqa: E731
  graphdef, state = jax.eval_shape(make)
  wide = jnp.bfloat16 if is_quantised(dtype) else dtype
  leaves, structure = jax.tree.flatten_with_path(state)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  weights = [
    jnp.ones(leaf.shape, wide)
    if 'norm' in jax.tree_util.keystr(path)
    else STANDARD_DEVIATION * jax.random.normal(key, leaf.shape, wide)
    for key, (path, leaf) in zip(keys, leaves, strict=True)
  ]
  llama = nnx.merge(graphdef, jax.tree.unflatten(structure, weights))
  return quantise(llama, dtype) if is_quantised(dtype) else llama


def peaks() -> tuple[float, float] | None:
  """Return the operations and bytes per second of this device, None if unknown."""
  return PEAKS.get(jax.devices()[0].device_kind)


def share(rate: float, index: int) -> float | None:
  """Return a rate over the device's peak, 0: of operations, 1: of bytes."""
  known = peaks()
  return round(rate / known[index], 4) if known else None


def fastest(call: Callable[[], Any], rounds: int) -> float:
  """Return the seconds of the fastest of `rounds` calls, after one that compiles."""
  seconds = []
  for _ in range(rounds + 1):
    begin = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - begin)
  return min(seconds[1:])


def bytes_of(tree: Any) -> int:
  """Return the bytes of all arrays of a tree."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
