# SPDX-License-Identifier: Apache-2.0
"""Skips the updates of steps whose loss jumps out of the range of those before."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

STEPS, SIGMAS = 128, 6.0


class SpikeState(NamedTuple):
  """The last losses, in a ring; how many steps were seen and how many skipped."""

  losses: Float[Array, ' n']
  seen: Int[Array, '']
  skipped: Int[Array, '']
  skips: Bool[Array, '']  # whether the last step was
  inner: optax.OptState


def skip_spikes(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """An optimizer that leaves a step out if its loss is above mean + 6 sigma of the 128
  before. `update` wants the loss as `value`.

  The history takes a spike for no more than its limit: one does not hide the next, and
  losses that stay high are accepted in the end. What is not finite is no spike.
  """
  inner = optax.with_extra_args_support(optimizer)

  def init(params) -> SpikeState:
    zero = jnp.zeros((), jnp.int32)
    losses, skips = jnp.zeros(STEPS, jnp.float32), jnp.zeros((), bool)
    return SpikeState(losses, zero, jnp.zeros_like(zero), skips, inner.init(params))

  def update(gradient, state: SpikeState, params=None, *, value, **rest):
    limit = state.losses.mean() + SIGMAS * state.losses.std()
    full = state.seen >= STEPS
    skips = full & (value > limit) & jnp.isfinite(value)
    found, moved = inner.update(gradient, state.inner, params, value=value, **rest)
    found, moved = jax.tree.map(
      lambda old, new: jnp.where(skips, old, new),
      (jax.tree.map(jnp.zeros_like, found), state.inner),
      (found, moved),
    )
    kept = jnp.where(full, jnp.minimum(value, limit), value)
    losses = state.losses.at[state.seen % STEPS].set(kept)
    new = SpikeState(losses, state.seen + 1, state.skipped + skips, skips, moved)
    return found, new

  return optax.GradientTransformationExtraArgs(init, update)


def keep_unless_skipped(state: optax.OptState, new: Any, old: Any) -> Any:
  """What a step made, or what was there before if the step is left out."""
  if not isinstance(state, SpikeState):
    return new
  return jax.tree.map(lambda n, o: jnp.where(state.skips, o, n), new, old)


def skipped_metric(state: optax.OptState) -> dict[str, Array]:
  """A metric, if spikes are skipped."""
  return {'skipped_steps': state.skipped} if isinstance(state, SpikeState) else {}
