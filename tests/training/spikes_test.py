# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from acl_jax.training.spikes import (
  HISTORY_LENGTH,
  keep_unless_skipped,
  skip_spikes,
  skipped_metric,
)

PARAMS = {'w': jnp.arange(5.0)}
GRADIENT = {'w': jnp.ones(5)}
optimizer = skip_spikes(optax.adam(0.1))
update = jax.jit(optimizer.update)


def train(losses, state=None):
  """The last updates and the state after one step for each loss."""
  state = optimizer.init(PARAMS) if state is None else state
  for loss in losses:
    updates, state = update(GRADIENT, state, PARAMS, value=jnp.float32(loss))
  return updates, state


def usual_losses(n=HISTORY_LENGTH):
  return 2 + 0.1 * np.sin(np.arange(n))


def is_skipped(loss, state):
  return bool(train([loss], state)[1].skips)


def test_losses_above_six_sigma_are_skipped():
  _, state = train(usual_losses())
  limit = usual_losses().mean() + 6 * usual_losses().std()
  assert not is_skipped(limit - 0.01, state) and is_skipped(limit + 0.01, state)
  assert not is_skipped(-100.0, state)


def test_nothing_is_skipped_before_the_history_is_full():
  assert not is_skipped(1e6, train(usual_losses(HISTORY_LENGTH - 1))[1])


@pytest.mark.parametrize('loss', [np.nan, np.inf])
def test_non_finite_losses_are_not_skipped(loss):
  assert not is_skipped(loss, train(usual_losses())[1])


def test_a_skipped_step_changes_only_the_count():
  _, before = train(usual_losses())
  updates, state = train([1e6], before)
  assert not updates['w'].any()
  jax.tree.map(np.testing.assert_array_equal, state.inner, before.inner)
  assert skipped_metric(state) == {'skipped_steps': 1}
  assert (
    keep_unless_skipped(state, {'m': jnp.ones(3)}, {'m': jnp.zeros(3)})['m'].sum() == 0
  )
  updates, state = train([2.0], state)
  assert updates['w'].all() and skipped_metric(state) == {'skipped_steps': 1}
  assert (
    keep_unless_skipped(state, {'m': jnp.ones(3)}, {'m': jnp.zeros(3)})['m'].sum() == 3
  )


def test_a_spike_does_not_hide_the_next():
  _, state = train([*usual_losses(), 1e6])
  assert is_skipped(5.0, state)


def test_losses_that_stay_high_are_accepted_eventually():
  _, state = train([*usual_losses(), *[5.0] * HISTORY_LENGTH])
  assert not is_skipped(5.0, state)
  assert 0 < int(state.skipped) < HISTORY_LENGTH


def test_without_spikes_updates_are_those_of_the_wrapped_optimizer():
  plain = optax.adam(0.1)
  expected, _ = plain.update(GRADIENT, plain.init(PARAMS), PARAMS)
  updates, _ = train([2.0])
  np.testing.assert_array_equal(updates['w'], expected['w'])
  assert skipped_metric(plain.init(PARAMS)) == {}
