# SPDX-License-Identifier: Apache-2.0
"""The three inputs of every output of a convolution of width 3, padded by one.

A tap of another utterance of the row is zero, as the padding would be.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def segment_taps(
  x: Float[Array, 'b t *c'], segment_ids: Int[Array, 'b t'], stride: int
) -> list[Float[Array, 'b u *c']]:
  """Return the frames before, at and after every output; u = ceil(t / stride).

  Zero where the output or its neighbour is padding or they are of two utterances.
  stride: 1 or 2.
  """
  taps, ids = three_taps(x, 1, stride), three_taps(segment_ids, 1, stride)
  centre = ids[1]
  masks = [(neighbour == centre) & (centre > 0) for neighbour in ids]
  return [
    jnp.where(jnp.expand_dims(mask, tuple(range(2, x.ndim))), tap, 0)
    for tap, mask in zip(taps, masks, strict=True)
  ]


def three_taps(x: Array, axis: int, stride: int) -> list[Array]:
  """Return the values before, at and after every `stride`-th position of an axis.

  They are zero beyond the ends.
  """
  x = jnp.moveaxis(x, axis, 0)
  if stride == 1:
    padded = jnp.pad(x, ((1, 1), *[(0, 0)] * (x.ndim - 1)))
    taps = padded[:-2], x, padded[2:]
  else:
    # A reshape, because the gradient of a strided slice is slow.
    x = jnp.pad(x, ((0, len(x) % 2), *[(0, 0)] * (x.ndim - 1)))
    pairs = x.reshape(-1, 2, *x.shape[1:])
    centre, after = pairs[:, 0], pairs[:, 1]
    before = jnp.pad(after, ((1, 0), *[(0, 0)] * (after.ndim - 1)))[:-1]
    taps = before, centre, after
  return [jnp.moveaxis(tap, 0, axis) for tap in taps]
