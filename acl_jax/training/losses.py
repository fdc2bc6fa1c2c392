# SPDX-License-Identifier: Apache-2.0
"""What training minimises."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.ctc import BLANK

LOG_ZERO = -1e30  # a log-probability; -inf would make gradients NaN


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
  temperature: float = 1.0,
) -> Float[Array, '']:
  """KL(teacher || student) in nats per token, from the teacher's k likeliest tokens.

  All other tokens, if there are any, count as one outcome: the mass that the teacher
  gave them is not lost.
  temperature: both distributions over these outcomes are made softer by it, and
    the divergence is multiplied by its square (Hinton et al. 2015).
  """
  student = jnp.take_along_axis(jax.nn.log_softmax(logits), top_ids, axis=-1)
  teacher = top_log_probs.astype(jnp.float32)
  if top_ids.shape[-1] < logits.shape[-1]:
    teacher, student = _append_remaining_mass(teacher), _append_remaining_mass(student)
  teacher, student = (jax.nn.log_softmax(x / temperature) for x in (teacher, student))
  divergence = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
  divergence *= temperature**2
  return jnp.sum(divergence * weight) / jnp.maximum(jnp.sum(weight), 1)


def _append_remaining_mass(log_probs: Float[Array, 'b u k']) -> Float[Array, 'b u k+1']:
  """And, last, the log-probability of all that is not there."""
  rest = jnp.clip(1 - jnp.exp(log_probs).sum(-1, keepdims=True), 1e-6, 1)
  return jnp.concatenate([log_probs, jnp.log(rest)], axis=-1)


def ctc(
  logits: Float[Array, 'a s c'],
  valid: Bool[Array, 'a s'],
  labels: Int[Array, 'a u'],
) -> Float[Array, '']:
  """Connectionist temporal classification, nats per label (Graves et al. 2006).

  labels: indices into the classes, `BLANK` behind the last. Of the many classes only a
  row's own labels are looked at, which is why this is not `optax.ctc_loss`: that one
  multiplies by one-hot labels, thousands of classes wide.
  """
  present = labels != BLANK
  log_z = jax.nn.logsumexp(logits, axis=-1)
  blank = logits[..., BLANK] - log_z
  emit = jnp.take_along_axis(logits, labels[:, None], axis=-1) - log_z[..., None]
  new = jnp.pad(labels[:, 1:] != labels[:, :-1], ((0, 0), (1, 0)))

  def frame(state, inputs):
    """Log-probabilities of having written n labels, the last frame a blank or not."""
    after_blank, after_label = state
    blank, emit, valid = inputs
    shifted = jnp.pad(after_label, ((0, 0), (1, 0)), constant_values=LOG_ZERO)
    next_blank = jnp.logaddexp(after_blank, shifted) + blank[:, None]
    moved = jnp.where(new, shifted[:, :-1], LOG_ZERO)
    moved = jnp.logaddexp(moved, after_blank[:, :-1])
    next_label = jnp.logaddexp(after_label, moved) + emit
    keep = valid[:, None]
    return (
      jnp.where(keep, next_blank, after_blank),
      jnp.where(keep, next_label, after_label),
    ), None

  a, u = labels.shape
  after_blank = jnp.full((a, u + 1), LOG_ZERO).at[:, 0].set(0.0)
  by_time = [jnp.moveaxis(x, 1, 0) for x in (blank, emit, valid)]
  state = (after_blank, jnp.full((a, u), LOG_ZERO))
  (after_blank, after_label), _ = jax.lax.scan(frame, state, by_time)
  last = jnp.sum(present, axis=1, keepdims=True)
  written = jnp.logaddexp(
    jnp.take_along_axis(after_blank, last, axis=1),
    jnp.take_along_axis(after_label, jnp.maximum(last - 1, 0), axis=1),
  )[:, 0]
  # A row without labels is padding of the batch.
  loss = jnp.where(last[:, 0] > 0, -written, 0)
  return jnp.sum(loss) / jnp.maximum(jnp.sum(present), 1)
