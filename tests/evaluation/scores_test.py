# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.evaluation.rows import Case, make_batches, row_length
from acl_jax.evaluation.scores import score

RESPONSE = (290, 301, 277, 2)


def clip(length, seed=0):
  return np.random.default_rng(seed).normal(size=(length, 24)).astype(np.float32)


def alone(model, case):
  """The score without rows, padding or masks."""
  parts = []
  for segment in case.prompt:
    spoken = isinstance(segment, int)
    parts.append(case.clip if spoken else model.llama.embed(jnp.asarray([segment]))[0])
  parts.append(model.llama.embed(jnp.asarray([case.response]))[0])
  x = jnp.concatenate(parts)[None]
  t = x.shape[1]
  hidden, _ = model.llama(x, jnp.arange(t)[None], jnp.tril(jnp.ones((1, t, t), bool)))
  logits = model.llama.logits(hidden)[0, -len(case.response) - 1 : -1]
  nll = -jax.nn.log_softmax(logits)[np.arange(len(case.response)), case.response]
  return nll, logits.argmax(-1)


@pytest.fixture
def cases(text):
  return [
    Case(text.prompt('the capital of France'), None, RESPONSE),
    Case(text.spoken(), clip(11), RESPONSE[1:]),
    Case(text.prompt(''), None, RESPONSE[:1]),
    Case(text.spoken(), clip(3, 1), RESPONSE),
    Case(text.spoken(), clip(0), RESPONSE * 9),
  ]


def test_equals_a_direct_computation(model, cases):
  for case, (nll, best) in zip(cases[:2], score(model, cases[:2]), strict=True):
    expected, choice = alone(model, case)
    np.testing.assert_allclose(nll, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(best, choice)


def test_neighbours_and_padding_change_nothing(model, cases):
  together = score(model, [*cases, *cases[:4]])
  for number in (1, 4):
    [(nll, best)] = score(model, [cases[number]])
    np.testing.assert_allclose(together[number].nll, nll, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(together[number].best, best)


def test_progress_is_told(model, cases):
  done = []
  score(model, cases, done.append)
  assert sum(done) == len(cases)


def test_batches_hold_every_case_once_within_the_budget(cases):
  found = []
  written = [case for case in cases if case.clip is None]
  for numbers, rows in make_batches(written * 5, 24, tokens=96, max_rows=4):
    assert len(numbers) <= rows.targets.shape[0] <= 4
    assert rows.prompt.tokens.size <= 96
    found += numbers
  assert sorted(found) == list(range(10))


def test_a_case_longer_than_the_budget_has_a_batch_of_its_own(cases):
  [longest] = [case for case in cases if len(case.response) > 9]
  assert row_length(longest) > 32
  [(_, rows)] = make_batches([longest], 24, tokens=32, max_rows=4)
  assert rows.targets.shape[0] == 1
