# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.models.alignment import align


def best_division(weights):
  """Try every division of the frames among all tokens; returns the boundaries."""
  n, t = weights.shape
  salience = weights - weights.mean(0, keepdims=True)

  def score(cuts):
    bounds = (0, *cuts, t)
    return sum(
      salience[i, a:b].sum() for i, (a, b) in enumerate(itertools.pairwise(bounds))
    )

  cuts = max(itertools.combinations(range(1, t), n - 1), key=score)
  return [*itertools.pairwise((0, *cuts, t))]


@pytest.mark.parametrize('seed', range(5))
def test_frames_are_divided_as_well_as_possible(seed):
  weights = np.random.default_rng(seed).dirichlet(np.ones(9), size=(2, 4))
  weights = weights.astype(np.float32)
  spans = align(jnp.asarray(weights), jnp.array([4, 4]), jnp.ones((2, 9), bool))
  for row, actual in zip(weights, spans.tolist(), strict=True):
    assert [*map(tuple, actual)] == best_division(row)


def test_padding_changes_nothing():
  weights = jax.random.uniform(jax.random.key(0), (1, 3, 7))
  spans = align(weights, jnp.array([3]), jnp.ones((1, 7), bool))
  padded = jnp.pad(weights, ((0, 0), (0, 0), (0, 4)), constant_values=5)
  mask = jnp.arange(11)[None] < 7
  np.testing.assert_array_equal(align(padded, jnp.array([3]), mask), spans)
  assert spans[0, 0, 0] == 0 and spans[0, -1, 1] == 7
  assert (spans[0, 1:, 0] == spans[0, :-1, 1]).all()
  rows = jnp.pad(weights, ((0, 0), (0, 2), (0, 0)), constant_values=5)
  spans_of_rows = align(rows, jnp.array([3]), jnp.ones((1, 7), bool))
  np.testing.assert_array_equal(spans_of_rows[:, :3], spans)


def test_tokens_that_take_no_part_have_no_frames():
  weights = jax.random.uniform(jax.random.key(1), (2, 5, 8))
  spans = align(weights, jnp.array([2, 0]), jnp.ones((2, 8), bool))
  lengths = spans[..., 1] - spans[..., 0]
  assert (lengths[0, :2] > 0).all() and lengths[0, :2].sum() == 8
  assert not lengths[0, 2:].any()
