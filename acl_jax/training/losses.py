# SPDX-License-Identifier: Apache-2.0
"""Training losses: cross-entropy, distillation from top-k logits, and CTC."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.ctc import BLANK

LOG_ZERO = -1e30  # a log-probability; -inf would make gradients NaN


def cross_entropy(
  logits: Float[Array, 'b u v'],
  targets: Int[Array, 'b u'],
  weight: Float[Array, 'b u'],
  total: Float[Array, ''] | None = None,
) -> Float[Array, '']:
  """Weighted mean of the negative log-likelihood, in nats per target token.

  total: the weight of all rows of a batch, if these are not all; the sum over its parts
  is then the mean.
  """
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  return _mean(nll, weight, total)


def _mean(
  x: Float[Array, 'b u'], weight: Float[Array, 'b u'], total: Float[Array, ''] | None
) -> Float[Array, '']:
  """Weighted mean, with the weights' sum of the whole batch if it is given."""
  total = jnp.sum(weight) if total is None else total
  return jnp.sum(x * weight) / jnp.maximum(total, 1)


def smoothed_cross_entropy(
  logits: Float[Array, 'a n c'],
  targets: Int[Array, 'a n'],
  mask: Bool[Array, 'a n'],
  smoothing: float,
) -> Float[Array, '']:
  """Mean cross-entropy to targets mixed with a uniform distribution over the classes.

  smoothing: the weight of the uniform one (label smoothing, Szegedy et al. 2016).
  """
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  if smoothing:
    uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    nll = (1 - smoothing) * nll + smoothing * uniform
  return jnp.sum(jnp.where(mask, nll, 0)) / jnp.maximum(jnp.sum(mask), 1)


def top_k_kl(
  logits: Float[Array, 'b u v'],
  top_ids: Int[Array, 'b u k'],
  top_log_probs: Float[Array, 'b u k'],
  weight: Float[Array, 'b u'],
  temperature: float = 1.0,
  total: Float[Array, ''] | None = None,
) -> Float[Array, '']:
  """KL(teacher || student) over the teacher's top k tokens, in nats per token.

  All other tokens, if there are any, count as one outcome, which keeps the probability
  that the teacher gives them.
  temperature: softens both distributions over these outcomes; the divergence is
    multiplied by its square (Hinton et al. 2015).
  total: as of `cross_entropy`.
  """
  student = jnp.take_along_axis(jax.nn.log_softmax(logits), top_ids, axis=-1)
  teacher = top_log_probs.astype(jnp.float32)
  if top_ids.shape[-1] < logits.shape[-1]:
    teacher, student = _append_remaining_mass(teacher), _append_remaining_mass(student)
  teacher, student = (jax.nn.log_softmax(x / temperature) for x in (teacher, student))
  divergence = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
  divergence *= temperature**2
  return _mean(divergence, weight, total)


def _append_remaining_mass(log_probs: Float[Array, 'b u k']) -> Float[Array, 'b u k+1']:
  """Append the log-probability of all other outcomes."""
  rest = jnp.clip(1 - jnp.exp(log_probs).sum(-1, keepdims=True), 1e-6, 1)
  return jnp.concatenate([log_probs, jnp.log(rest)], axis=-1)


def ctc(
  logits: Float[Array, 'a s c'],
  frame_mask: Bool[Array, 'a s'],
  labels: Int[Array, 'a u'],
) -> Float[Array, '']:
  """Connectionist temporal classification, in nats per label (Graves et al. 2006).

  labels: class indices, padded with `BLANK` at the end; a row without any is padding.

  Unlike `optax.ctc_loss`, gathers only each row's own labels; a one-hot over thousands
  of classes would dominate the cost.
  """
  label_mask = labels != BLANK
  log_z = jax.nn.logsumexp(logits, axis=-1)
  blank = logits[..., BLANK] - log_z
  emit = jnp.take_along_axis(logits, labels[:, None], axis=-1) - log_z[..., None]
  # A label may follow another one without a blank between them if the two differ.
  differs = jnp.pad(labels[:, 1:] != labels[:, :-1], ((0, 0), (1, 0)))

  def step(state, inputs):
    """Advance one frame.

    The state has the log-probabilities of all paths that have emitted n labels and end
    in a blank, or in a label.
    """
    after_blank, after_label = state
    blank, emit, mask = inputs
    shifted = jnp.pad(after_label, ((0, 0), (1, 0)), constant_values=LOG_ZERO)
    next_blank = jnp.logaddexp(after_blank, shifted) + blank[:, None]
    advanced = jnp.where(differs, shifted[:, :-1], LOG_ZERO)
    advanced = jnp.logaddexp(advanced, after_blank[:, :-1])
    next_label = jnp.logaddexp(after_label, advanced) + emit
    mask = mask[:, None]
    return (
      jnp.where(mask, next_blank, after_blank),
      jnp.where(mask, next_label, after_label),
    ), None

  a, u = labels.shape
  after_blank = jnp.full((a, u + 1), LOG_ZERO).at[:, 0].set(0.0)
  after_label = jnp.full((a, u), LOG_ZERO)
  time_major = [jnp.moveaxis(x, 1, 0) for x in (blank, emit, frame_mask)]
  (after_blank, after_label), _ = jax.lax.scan(
    step, (after_blank, after_label), time_major
  )
  num_labels = jnp.sum(label_mask, axis=1, keepdims=True)
  log_prob = jnp.logaddexp(
    jnp.take_along_axis(after_blank, num_labels, axis=1),
    jnp.take_along_axis(after_label, jnp.maximum(num_labels - 1, 0), axis=1),
  )[:, 0]
  loss = jnp.where(num_labels[:, 0] > 0, -log_prob, 0)
  return jnp.sum(loss) / jnp.maximum(jnp.sum(label_mask), 1)
