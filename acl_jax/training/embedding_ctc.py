# SPDX-License-Identifier: Apache-2.0
"""CTC whose classes are the LLM's own embeddings.

A stride adapter that is trained to answer alone begins to hear late: the LLM ignores
what it cannot read. With this loss its outputs first become embeddings of the tokens of
the transcript, and of a space wherever there is nothing to write. No parameter is added
to the adapter.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from acl_jax.training import losses

# Nats by which the class of an embedding is likelier than a typical other one.
CONTRAST = 16.0


def embedding_scores(
  embeddings: Float[Array, 'a s e'], classes: Float[Array, 'c e']
) -> Float[Array, 'a s c']:
  """Return the log-density of each embedding under a Gaussian around each class.

  Up to a constant, without which it is 0 where they are equal and -CONTRAST at the mean
  squared distance between classes.
  """
  # In float32: differences of large numbers.
  x, y = embeddings.astype(jnp.float32), classes.astype(jnp.float32)
  center = jnp.mean(y, axis=0)
  x, y = x - jnp.broadcast_to(center, x.shape), y - jnp.broadcast_to(center, y.shape)
  products, lengths = jnp.einsum('ase,ce->asc', x, y), jnp.sum(y * y, axis=-1)
  squared = jnp.sum(x * x, axis=-1, keepdims=True) - 2 * products
  squared += jnp.broadcast_to(lengths, squared.shape)
  return -squared * (CONTRAST / (2 * jnp.mean(lengths)))


def loss(
  embeddings: Float[Array, 'a s e'],
  mask: Bool[Array, 'a s'],
  classes: Float[Array, 'c e'],
  logit_correction: Float[Array, ' c'],
  labels: Int[Array, 'a u'],
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """CTC loss in nats per label, plus the distance to the nearest classes.

  The distance is relative: 1 is that of two typical classes. CTC alone compares classes
  with each other, so it does not know where an embedding is in the space.

  classes: the embedding of the blank first. labels: padded with 0.
  """
  scores = embedding_scores(embeddings, classes)
  scores += jnp.broadcast_to(logit_correction, scores.shape)
  token_loss = losses.ctc(scores, mask, labels)
  nearest = -jax.nn.logsumexp(scores, axis=-1) / CONTRAST
  distance = jnp.sum(jnp.where(mask, nearest, 0)) / jnp.maximum(jnp.sum(mask), 1)
  return token_loss + distance, {'ctc_tokens': token_loss, 'distance': distance}
