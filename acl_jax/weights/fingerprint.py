# SPDX-License-Identifier: Apache-2.0
"""Digests of bytes and of model parameters, which files store as their provenance.

`describe` identifies a model however it is sharded, without copying it to the host;
`parameters_sha256` hashes its raw bytes on the host. Files store the digests, so their
values must not change.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, Num, UInt32


def fingerprint(parts: Iterable[bytes | memoryview]) -> str:
  """Return the SHA-256 of the concatenated parts, as hexadecimal digits."""
  digest = hashlib.sha256()
  for part in parts:
    digest.update(part)
  return digest.hexdigest()


def describe(model: Any) -> dict[str, Any]:
  """Return a model's parameter count, dtype and SHA-256, independent of its sharding.

  The SHA-256 is that of a manifest with one line per parameter: name, dtype, shape and
  `checksum`. Checksums are computed on the devices, so no parameter is copied.
  """
  leaves = jax.tree_util.tree_leaves_with_path(model)
  lines = (manifest_line(path, value, checksum(value)) for path, value in leaves)
  return {
    'parameters': sum(value.size for _, value in leaves),
    'dtype': str(leaves[0][1].dtype),
    'sha256': fingerprint(lines),
  }


def parameters_sha256(module: Any) -> str:
  """Return the SHA-256 of the bytes of a module's parameters, in state order.

  Unlike `describe`, copies every parameter to the host.
  """
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(nnx.state(module)):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def manifest_line(
  path: tuple[Any, ...], value: Any, sums: UInt32[Array, ' 2']
) -> bytes:
  """Return a parameter's line of the manifest: name, dtype, shape and checksum."""
  name = jax.tree_util.keystr(path)
  return f'{name} {value.dtype} {value.shape} {sums.tolist()}'.encode()


@jax.jit
def checksum(
  x: Num[Array, '...'], layer: int | Int[Array, ''] = 0
) -> UInt32[Array, ' 2']:
  """Return a checksum that any sharding gives exactly: two sums of element hashes.

  Each element is hashed together with its index in the array; uint32 sums do not depend
  on the order of addition.
  layer: index of `x` along a stacked leading axis; the checksum of stacked layers is
    the sum of the checksums of all layers.
  """
  x = x.astype(jnp.int8) if x.dtype == jnp.int4 else x  # which has no bytes
  size = x.dtype.itemsize
  bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * size}'))
  index = jnp.full(x.shape, layer, jnp.uint32)
  # The flat index without a reshape, which would gather a sharded array.
  for axis, length in enumerate(x.shape):
    index = index * jnp.uint32(length) + jax.lax.broadcasted_iota(
      jnp.uint32, x.shape, axis
    )
  return jnp.stack(
    [_mix(bits.astype(jnp.uint32), index, seed).sum() for seed in (1, 2)]
  )


def _mix(
  bits: UInt32[Array, '...'], index: UInt32[Array, '...'], seed: int
) -> UInt32[Array, '...']:
  """Finalizer of MurmurHash3 (32 bits), applied to an element and its index."""
  x = bits ^ (index * jnp.uint32(0x9E3779B1) + jnp.uint32(seed))
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
    x = (x ^ (x >> shift)) * jnp.uint32(factor)
  return x
