# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from acl_jax.training.spikes import (
  STEPS,
  keep_unless_skipped,
  skip_spikes,
  skipped_metric,
)

PARAMS = {'w': jnp.arange(5.0)}
GRADIENT = {'w': jnp.ones(5)}
optimizer = skip_spikes(optax.adam(0.1))
update = jax.jit(optimizer.update)


def after(losses, state=None):
  state = optimizer.init(PARAMS) if state is None else state
  for loss in losses:
    made, state = update(GRADIENT, state, PARAMS, value=jnp.float32(loss))
  return made, state


def calm(n=STEPS):
  return 2 + 0.1 * np.sin(np.arange(n))


def skips(loss, state):
  return bool(after([loss], state)[1].skips)


def test_only_what_is_beyond_six_sigma_is_skipped():
  _, state = after(calm())
  limit = calm().mean() + 6 * calm().std()
  assert not skips(limit - 0.01, state) and skips(limit + 0.01, state)
  assert not skips(-100.0, state)


def test_nothing_is_skipped_before_there_is_a_history():
  assert not skips(1e6, after(calm(STEPS - 1))[1])


@pytest.mark.parametrize('loss', [np.nan, np.inf])
def test_what_is_not_finite_is_no_spike(loss):
  assert not skips(loss, after(calm())[1])


def test_a_skipped_step_changes_nothing_but_the_count():
  _, before = after(calm())
  made, state = after([1e6], before)
  assert not made['w'].any()
  jax.tree.map(np.testing.assert_array_equal, state.inner, before.inner)
  assert skipped_metric(state) == {'skipped_steps': 1}
  assert (
    keep_unless_skipped(state, {'m': jnp.ones(3)}, {'m': jnp.zeros(3)})['m'].sum() == 0
  )
  made, state = after([2.0], state)
  assert made['w'].all() and skipped_metric(state) == {'skipped_steps': 1}
  assert (
    keep_unless_skipped(state, {'m': jnp.ones(3)}, {'m': jnp.zeros(3)})['m'].sum() == 3
  )


def test_a_spike_does_not_hide_the_next():
  _, state = after([*calm(), 1e6])
  assert skips(5.0, state)


def test_losses_that_stay_high_are_accepted_in_the_end():
  _, state = after([*calm(), *[5.0] * STEPS])
  assert not skips(5.0, state)
  assert 0 < int(state.skipped) < STEPS


def test_without_spikes_it_is_the_optimizer_itself():
  plain = optax.adam(0.1)
  expected, _ = plain.update(GRADIENT, plain.init(PARAMS), PARAMS)
  made, _ = after([2.0])
  np.testing.assert_array_equal(made['w'], expected['w'])
  assert skipped_metric(plain.init(PARAMS)) == {}
