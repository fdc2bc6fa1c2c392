# SPDX-License-Identifier: Apache-2.0
"""A depthwise convolution over time in which packed utterances do not mix."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.custom_vjp
def depthwise(
  x: Float[Array, 'b t d'], kernel: Float[Array, 'w d'], segment_ids: Int[Array, 'b t']
) -> Float[Array, 'b t d']:
  """A depthwise convolution over time, in which utterances of a row see nothing else.

  Its gradient is written down: what XLA makes of JAX's own computes the incoming one
  anew for every tap.
  """
  taps = _taps(x, segment_ids, len(kernel))
  scaled = (tap * weight[None, None] for tap, weight in zip(taps, kernel, strict=True))
  return functools.reduce(jnp.add, scaled)


def _forward(x, kernel, segment_ids):
  return depthwise(x, kernel, segment_ids), (x, kernel, segment_ids)


def _backward(saved, gradient):
  x, kernel, segment_ids = saved
  taps = _taps(x, segment_ids, len(kernel))
  of_kernel = jnp.stack([jnp.sum(tap * gradient, axis=(0, 1)) for tap in taps])
  return depthwise(gradient, kernel[::-1], segment_ids), of_kernel, None


depthwise.defvjp(_forward, _backward)


def _taps(
  x: Float[Array, 'b t d'], segment_ids: Int[Array, 'b t'], width: int
) -> list[Float[Array, 'b t d']]:
  """What a convolution sees: `x` earlier, now and later, zero where it is another's."""
  t, half = x.shape[1], width // 2
  padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
  ids = jnp.pad(segment_ids, ((0, 0), (half, half)))
  return [
    jnp.where((ids[:, i : i + t] == segment_ids)[..., None], padded[:, i : i + t], 0)
    for i in range(width)
  ]
