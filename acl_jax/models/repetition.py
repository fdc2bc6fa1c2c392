# SPDX-License-Identifier: Apache-2.0
"""Whether a decoder repeats itself."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def ends_in_repetition(
  recent_tokens: Int[Array, 'b r'], repeats: int
) -> Bool[Array, ' b']:
  """Return whether each row ends in one n-gram, `repeats` times in a row.

  n is at most r / repeats. recent_tokens: oldest first; negative before the first.
  """
  repeated = jnp.zeros(len(recent_tokens), bool)
  for n in range(1, recent_tokens.shape[1] // repeats + 1):
    tail = recent_tokens[:, -n * repeats :]
    repeated |= (tail[:, n:] == tail[:, :-n]).all(axis=1) & (tail[:, 0] >= 0)
  return repeated
