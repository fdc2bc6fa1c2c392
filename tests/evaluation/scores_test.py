# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.evaluation.prompt_batches import PromptCase, batch_cases, row_length
from acl_jax.evaluation.scores import score_cases

RESPONSE = (290, 301, 277, 2)


def clip(length, seed=0):
  return np.random.default_rng(seed).normal(size=(length, 24)).astype(np.float32)


def score_directly(model, case):
  """Score one case without batching, padding or masks."""
  parts = []
  for segment in case.prompt:
    is_clip = isinstance(segment, int)
    parts.append(
      case.clips[segment] if is_clip else model.llama.embed(jnp.asarray([segment]))[0]
    )
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
    PromptCase(text.prompt('the capital of France'), (), RESPONSE),
    PromptCase(text.audio_prompt(), [clip(11)], RESPONSE[1:]),
    PromptCase(text.prompt(''), (), RESPONSE[:1]),
    PromptCase(text.audio_prompt(), [clip(3, 1)], RESPONSE),
    PromptCase(text.audio_prompt(), [clip(0)], RESPONSE * 9),
  ]


def test_scores_match_a_direct_computation(model, cases):
  for case, (nll, greedy_tokens) in zip(
    cases[:2], score_cases(model, cases[:2]), strict=True
  ):
    expected_nll, expected_tokens = score_directly(model, case)
    np.testing.assert_allclose(nll, expected_nll, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(greedy_tokens, expected_tokens)


def test_batching_and_padding_change_nothing(model, cases):
  batched = score_cases(model, [*cases, *cases[:4]])
  for index in (1, 4):
    [(nll, greedy_tokens)] = score_cases(model, [cases[index]])
    np.testing.assert_allclose(batched[index].nll, nll, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(batched[index].greedy_tokens, greedy_tokens)


def test_progress_counts_every_case(model, cases):
  done = []
  score_cases(model, cases, done.append)
  assert sum(done) == len(cases)


def test_every_case_is_in_one_batch_within_the_token_limit(cases):
  batched_indices = []
  text_cases = [case for case in cases if not case.clips]
  for indices, batch in batch_cases(text_cases * 5, 24, tokens=96, max_rows=4):
    assert len(indices) <= batch.targets.shape[0] <= 4
    assert batch.prompt.tokens.size <= 96
    batched_indices += indices
  assert sorted(batched_indices) == list(range(10))


def test_a_case_over_the_token_limit_forms_its_own_batch(cases):
  [longest] = [case for case in cases if len(case.response) > 9]
  assert row_length(longest) > 32
  [(_, batch)] = batch_cases([longest], 24, tokens=32, max_rows=4)
  assert batch.targets.shape[0] == 1
