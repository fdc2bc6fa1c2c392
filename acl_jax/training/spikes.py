# SPDX-License-Identifier: Apache-2.0
"""Skipping of updates whose loss is far above that of recent steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

HISTORY_LENGTH, SIGMAS = 128, 6.0


class SpikeState(NamedTuple):
  """A ring buffer of losses, the numbers of steps seen and skipped, the inner state."""

  losses: Float[Array, ' n']
  seen: Int[Array, '']
  skipped: Int[Array, '']
  skips: Bool[Array, '']  # whether the last step was skipped
  inner: optax.OptState


def skip_spikes(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Wrap an optimizer to skip steps with a loss above mean + 6 sigma of the last 128.

  `update` takes the loss as `value`. Non-finite losses are not skipped. A spike enters
  the history as the limit, so it does not hide the next one, and losses that stay high
  are accepted eventually.
  """
  inner = optax.with_extra_args_support(optimizer)

  def init(params) -> SpikeState:
    return SpikeState(
      losses=jnp.zeros(HISTORY_LENGTH, jnp.float32),
      seen=jnp.zeros((), jnp.int32),
      skipped=jnp.zeros((), jnp.int32),
      skips=jnp.zeros((), bool),
      inner=inner.init(params),
    )

  def update(gradient, state: SpikeState, params=None, *, value, **rest):
    limit = state.losses.mean() + SIGMAS * state.losses.std()
    is_full = state.seen >= HISTORY_LENGTH
    skips = is_full & (value > limit) & jnp.isfinite(value)
    updates, inner_state = inner.update(
      gradient, state.inner, params, value=value, **rest
    )
    updates, inner_state = jax.tree.map(
      lambda old, new: jnp.where(skips, old, new),
      (jax.tree.map(jnp.zeros_like, updates), state.inner),
      (updates, inner_state),
    )
    loss = jnp.where(is_full, jnp.minimum(value, limit), value)
    new_state = SpikeState(
      losses=state.losses.at[state.seen % HISTORY_LENGTH].set(loss),
      seen=state.seen + 1,
      skipped=state.skipped + skips,
      skips=skips,
      inner=inner_state,
    )
    return updates, new_state

  return optax.GradientTransformationExtraArgs(init, update)


def keep_unless_skipped(state: optax.OptState, new: Any, old: Any) -> Any:
  """Return `new`, or `old` if the last step was skipped."""
  if not isinstance(state, SpikeState):
    return new
  return jax.tree.map(lambda n, o: jnp.where(state.skips, o, n), new, old)


def skipped_metric(state: optax.OptState) -> dict[str, Array]:
  """Return the number of skipped steps as a metric; empty if spikes are not skipped."""
  return {'skipped_steps': state.skipped} if isinstance(state, SpikeState) else {}
