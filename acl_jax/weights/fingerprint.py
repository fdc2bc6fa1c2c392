# SPDX-License-Identifier: Apache-2.0
"""Short names for long bytes, by which files say what they were made from."""

import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num, UInt32


def fingerprint(parts: Iterable[bytes | memoryview]) -> str:
  """A name for some bytes: their sha256."""
  digest = hashlib.sha256()
  for part in parts:
    digest.update(part)
  return digest.hexdigest()


def describe(model: Any) -> dict[str, Any]:
  """A model's size, dtype and fingerprint, the same however it is sharded.

  Its parameters stay on their devices: what is hashed is their manifest, the name, the
  shape and a checksum of each.
  """
  leaves = jax.tree_util.tree_leaves_with_path(model)
  lines = (line(path, value, checksum(value)) for path, value in leaves)
  return {
    'parameters': sum(value.size for _, value in leaves),
    'dtype': str(leaves[0][1].dtype),
    'sha256': fingerprint(lines),
  }


def line(path: tuple[Any, ...], value: Any, sums: UInt32[Array, ' 2']) -> bytes:
  """What the manifest says of a parameter."""
  name = jax.tree_util.keystr(path)
  return f'{name} {value.dtype} {value.shape} {sums.tolist()}'.encode()


@jax.jit
def checksum(
  x: Num[Array, '...'], layer: int | Int[Array, ''] = 0
) -> UInt32[Array, ' 2']:
  """Two sums over all elements, each hashed with its place; integers add up exactly.

  So do the checksums of layers, each with its number: their sum is that of all stacked.
  """
  size = x.dtype.itemsize
  bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * size}'))
  place = jnp.full(x.shape, layer, jnp.uint32)
  for axis, length in enumerate(x.shape):  # no reshape: it would gather a sharded array
    place = place * jnp.uint32(length) + jax.lax.broadcasted_iota(
      jnp.uint32, x.shape, axis
    )
  return jnp.stack(
    [_mix(bits.astype(jnp.uint32), place, seed).sum() for seed in (1, 2)]
  )


def _mix(
  bits: UInt32[Array, '...'], place: UInt32[Array, '...'], seed: int
) -> UInt32[Array, '...']:
  """The finalizer of MurmurHash3 (32 bits), on an element and its place."""
  x = bits ^ (place * jnp.uint32(0x9E3779B1) + jnp.uint32(seed))
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
    x = (x ^ (x >> shift)) * jnp.uint32(factor)
  return x
