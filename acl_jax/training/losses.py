# SPDX-License-Identifier: Apache-2.0
"""What training minimises."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.adapters import BLANK


def cross_entropy(
  logits: Float[Array, 'b u v'], targets: Int[Array, 'b u'], weight: Float[Array, 'b u']
) -> Float[Array, '']:
  """Nats per target token, over the targets that have weight."""
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  return jnp.sum(nll * weight) / jnp.maximum(jnp.sum(weight), 1)


def top_k_kl(
  logits: Float[Array, 'b u v'],
  top_ids: Int[Array, 'b u k'],
  top_log_probs: Float[Array, 'b u k'],
  weight: Float[Array, 'b u'],
) -> Float[Array, '']:
  """KL(teacher || student) in nats per token, from the teacher's k likeliest tokens.

  All other tokens count as one outcome, so that the mass the teacher gave them is not lost.
  """
  student = jnp.take_along_axis(jax.nn.log_softmax(logits), top_ids, axis=-1)
  teacher = top_log_probs.astype(jnp.float32)
  divergence = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
  divergence += _rest_of_kl(jnp.exp(teacher).sum(-1), jnp.exp(student).sum(-1))
  return jnp.sum(divergence * weight) / jnp.maximum(jnp.sum(weight), 1)


def _rest_of_kl(teacher: Float[Array, 'b u'], student: Float[Array, 'b u']):
  rest, its = (jnp.clip(1 - mass, 1e-6, 1) for mass in (teacher, student))
  return rest * (jnp.log(rest) - jnp.log(its))


def ctc(
  logits: Float[Array, 'a s c'],
  valid: Bool[Array, 'a s'],
  labels: Int[Array, 'a u'],
) -> Float[Array, '']:
  """Connectionist temporal classification, nats per label (Graves et al. 2006).

  labels: indices into the classes, `BLANK` where there is none.
  """
  present = labels != BLANK
  padding = 1.0 - valid.astype(jnp.float32)
  absent = 1.0 - present.astype(jnp.float32)
  loss = optax.ctc_loss(logits, padding, labels, absent, blank_id=BLANK)
  # A row without labels is padding of the batch.
  loss = jnp.where(present.any(axis=1), loss, 0)
  return jnp.sum(loss) / jnp.maximum(jnp.sum(present), 1)
