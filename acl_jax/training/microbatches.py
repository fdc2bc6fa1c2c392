# SPDX-License-Identifier: Apache-2.0
"""A loss of the frozen LLM over a batch, part by part, in the memory of one part.

Each part is differentiated as soon as it was run, so nothing is computed twice and only
the gradients of the audio embeddings are kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from acl_jax.batches.arrays import ResponseBatch

Clips = tuple[Float[Array, 'b s e'], Bool[Array, 'b s']]
Loss = Callable[[Clips, Sequence[ResponseBatch]], tuple[Float[Array, ''], Any]]


def run(loss: Loss, clips: Clips, responses: Sequence[ResponseBatch], count: int):
  """Return the loss and its auxiliary output, summed over `count` parts of the rows.

  loss: may be differentiated by the audio embeddings of `clips` alone; a gradient of
  anything else is lost if there are several parts. ValueError if `count` does not
  divide the rows.
  """
  if count == 1:
    return loss(clips, responses)
  (embeddings, mask), rows = clips, len(clips[0])
  if rows % count:
    raise ValueError(
      f'config.response.microbatches = {count} does not divide the {rows} rows of a'
      ' batch'
    )

  def split(x: Array) -> Array:
    # Every part has rows of every device, which holds consecutive ones.
    return x.reshape(rows // count, count, *x.shape[1:]).swapaxes(0, 1)

  def differentiate(part):
    embeddings, mask, split_responses = part
    own = [
      each._replace(shared_prefix=whole.shared_prefix)
      for each, whole in zip(split_responses, responses, strict=True)
    ]
    of_embeddings = lambda x: loss((x, mask), own)  # noqa: E731
    return jax.value_and_grad(of_embeddings, has_aux=True)(embeddings)

  fixed = jax.lax.stop_gradient(embeddings)
  without_prefix = [each._replace(shared_prefix=None) for each in responses]
  parts = jax.tree.map(split, (fixed, mask, without_prefix))
  (values, aux), gradients = jax.lax.map(differentiate, parts)
  gradient = gradients.swapaxes(0, 1).reshape(embeddings.shape)
  # Zero, with the gradient of the loss.
  zero = jnp.sum((embeddings - fixed) * gradient)
  value, aux = jax.tree.map(lambda x: jnp.sum(x, axis=0), (values, aux))
  return value + zero, aux
