# SPDX-License-Identifier: Apache-2.0
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.models.ctc import BLANK, CTCAdapter, CTCAdapterConfig, Scores
from acl_jax.models.recognition import ctc_segments
from acl_jax.models.spelling import NUM_LETTERS, token_letters
from tests.adapter_inputs import FRAME_SIZE as D
from tests.adapter_inputs import LLM_SIZE as E
from tests.adapter_inputs import make_inputs, normal

A = 3  # clips
LENGTHS = (27, 14, 0)
VOCABULARY = (7, 2, 9, 4)
CONFIG = CTCAdapterConfig(
  stack=4,
  encoder_size=D,
  letter_hidden_size=9,
  letter_layers=1,
  hidden_size=8,
  num_layers=2,
  kernel_size=4,
  dropout=0.5,
  llm_size=E,
  vocabulary_size=len(VOCABULARY),
  spelling_size=5,
)


run = jax.jit(lambda adapter, *inputs: adapter(*inputs))
score = jax.jit(CTCAdapter.scores)
find_segments = jax.jit(ctc_segments)


@pytest.fixture(scope='module')
def ctc():
  adapter = CTCAdapter(CONFIG, rngs=nnx.Rngs(3))
  adapter.vocabulary[...] = jnp.asarray(VOCABULARY)
  # Far from its initial values, at which all classes are almost equally likely.
  adapter.linear_2[...] *= 6
  adapter.linear_spelling[...] += normal(8, 5, seed=4)
  adapter.spelling.letters[...] = jnp.asarray(
    token_letters([' to', 'day', '.', ' two'])
  )
  adapter.bias[...] = jnp.asarray([1.0, -0.5, 0.3, 0.2, -0.1])
  return adapter


@pytest.mark.parametrize('padding', [-7.5, 1e6, jnp.nan, jnp.inf])
def test_padding_content_changes_nothing(ctc, padding):
  frames, frame_mask, table = make_inputs(LENGTHS)
  expected, mask = run(ctc, frames, frame_mask, table)
  dirty = jnp.where(frame_mask[..., None], frames, padding)
  actual, actual_mask = run(ctc, dirty, frame_mask, table)
  assert mask.any() and not mask[2].any()
  np.testing.assert_array_equal(mask, actual_mask)
  assert jnp.abs((actual - expected)[mask]).max() == 0.0


def test_amount_of_padding_changes_nothing(ctc):
  frames, frame_mask, table = make_inputs(LENGTHS)
  expected, mask = run(ctc, frames, frame_mask, table)
  padded = jnp.pad(frames, ((0, 0), (0, 10), (0, 0)))
  padded_mask = jnp.pad(frame_mask, ((0, 0), (0, 10)))
  actual, actual_mask = run(ctc, padded, padded_mask, table)
  np.testing.assert_array_equal(mask, actual_mask[:, : mask.shape[1]])
  assert not actual_mask[:, mask.shape[1] :].any()
  actual = actual[:, : mask.shape[1]]
  np.testing.assert_allclose(actual[mask], expected[mask], atol=1e-5)


def collapse(classes):
  """CTC's rule: merge repeats, then drop blanks."""
  return [c for c, _ in itertools.groupby(classes) if c != BLANK]


S = 9  # slots
paths = st.lists(st.integers(0, 3), max_size=S)


@given(st.lists(paths, min_size=A, max_size=A))
def test_segments_follow_the_ctc_rule(clips):
  logits, frame_mask = normal(A, S, 4), np.zeros((A, S), bool)
  for clip, path in enumerate(clips):
    logits[clip, np.arange(len(path)), path] += 10
    frame_mask[clip, : len(path)] = True
  start, segment = find_segments(logits, frame_mask)
  for clip, path in enumerate(clips):
    path = np.array(path + [BLANK] * (S - len(path)))
    assert path[start[clip]].tolist() == collapse(path)
    np.testing.assert_array_equal(segment[clip] >= 0, path != BLANK)
    number = -1  # of the token that a frame belongs to
    for i, c in enumerate(path):
      number += c != BLANK and (i == 0 or path[i - 1] != c)
      assert segment[clip, i] == (number if c != BLANK else -1)


class FixedLogits(CTCAdapter):
  """A CTC adapter with given logits."""

  fixed_logits: jax.Array

  def scores(self, frames, frame_mask, table, key=None, candidates=None):
    mask = jnp.ones(self.fixed_logits.shape[:2], bool)
    letters, letters_mask = jnp.zeros((1, 3, 2)), jnp.ones((1, 3), bool)
    return Scores(self.fixed_logits, mask, letters, letters_mask)


@jax.jit
def decode(logits):
  """Return embeddings, their mask and the greedy decision for a clip's logits."""
  adapter = FixedLogits(CONFIG, rngs=nnx.Rngs(0))
  adapter.vocabulary[...] = jnp.asarray(VOCABULARY)
  adapter.fixed_logits = nnx.data(logits)
  frames, frame_mask, table = make_inputs(LENGTHS)
  inputs = frames[:1], frame_mask[:1], table
  return *adapter(*inputs), adapter.greedy(*inputs)


@given(paths)
def test_certain_tokens_get_their_own_embedding(path):
  path = path + [BLANK] * (S - len(path))
  embeddings, mask, greedy = decode(np.float32(200) * np.eye(5, dtype='f')[None, path])
  token_ids = [VOCABULARY[c - 1] for c in collapse(path)]
  _, _, table = make_inputs(LENGTHS)
  expected = np.asarray(table)[token_ids].reshape(-1, E)
  np.testing.assert_allclose(embeddings[mask], expected, rtol=1e-6)
  assert mask[0].tolist() == [i < len(token_ids) for i in range(len(path))]
  assert greedy[greedy >= 0].tolist() == token_ids


@given(st.integers(0, 10**6))
def test_uncertain_tokens_get_an_expected_embedding(seed):
  """Each token is the mean embedding under its frames' non-blank probabilities."""
  logits = normal(1, S, 5, seed=seed) * 2
  embeddings, mask, _ = decode(logits)
  _, _, table = make_inputs(LENGTHS)
  p = np.exp(logits[0] - logits[0].max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  best = p.argmax(-1)
  groups = [list(g) for _, g in itertools.groupby(range(S), key=best.__getitem__)]
  groups = [group for group in groups if best[group[0]] != BLANK]
  assert mask.sum() == len(groups)
  for embedding, group in zip(embeddings[0], groups, strict=False):
    mass = p[group].sum(0)[1:]
    expected = mass @ np.asarray(table)[list(VOCABULARY)] / mass.sum()
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_greedy_collapses_the_best_classes(ctc):
  logits, mask, *_ = score(ctc, *make_inputs(LENGTHS))
  greedy = jax.jit(CTCAdapter.greedy)(ctc, *make_inputs(LENGTHS))
  for clip in range(A):
    best = np.argmax(logits[clip], -1)[np.asarray(mask[clip])]
    token_ids = [VOCABULARY[c - 1] for c in collapse(best.tolist())]
    assert greedy[clip][greedy[clip] >= 0].tolist() == token_ids
  embeddings, mask = run(ctc, *make_inputs(LENGTHS))
  assert (greedy >= 0).sum(1).tolist() == mask.sum(1).tolist()
  assert mask.any()


def test_gradients_reach_every_parameter_and_no_padding(ctc):
  frames, frame_mask, table = make_inputs(LENGTHS)
  split = nnx.split(ctc, nnx.Param, ...)

  def loss(params, frames):
    embeddings, mask = nnx.merge(split[0], params, split[2])(frames, frame_mask, table)
    return jnp.sum(jnp.where(mask[..., None], embeddings, 0) ** 2)

  params, inputs = jax.jit(jax.grad(loss, argnums=(0, 1)))(split[1], frames)
  for path, gradient in nnx.to_flat_state(params):
    assert jnp.abs(gradient[...]).max() > 0, path
  assert (jnp.abs(inputs).max(-1) > 0).tolist() == frame_mask.tolist()


def test_candidates_get_the_scores_of_the_full_vocabulary(ctc):
  full = score(ctc, *make_inputs(LENGTHS))
  subset = score(ctc, *make_inputs(LENGTHS), None, jnp.asarray([2, 0]))
  expected = full.tokens[..., jnp.asarray([BLANK, 2 + 1, 0 + 1])]
  np.testing.assert_allclose(subset.tokens, expected, atol=1e-6)
  np.testing.assert_allclose(subset.letters, full.letters, atol=1e-6)


def test_the_vocabulary_is_not_a_parameter(ctc):
  params = nnx.state(ctc, nnx.Param)
  assert 'vocabulary' in nnx.state(ctc) and 'vocabulary' not in params


def test_dropout_needs_a_key(ctc):
  inputs = make_inputs(LENGTHS)
  plain = score(ctc, *inputs)
  once, repeated, other = (score(ctc, *inputs, jax.random.key(i)) for i in (0, 0, 1))
  for kind in ('letters', 'tokens'):
    expected, actual = getattr(once, kind), getattr(repeated, kind)
    np.testing.assert_array_equal(actual, expected)
    assert (actual != getattr(plain, kind)).any()
    assert (actual != getattr(other, kind)).any()


def test_letters_have_twice_as_many_frames_as_tokens(ctc):
  scores = score(ctc, *make_inputs(LENGTHS))
  assert scores.tokens.shape == (A, 7, 1 + len(VOCABULARY))
  assert scores.letters.shape == (A, 14, 1 + NUM_LETTERS)
  assert scores.mask.sum(1).tolist() == [7, 4, 0]
  assert scores.letters_mask.sum(1).tolist() == [14, 7, 0]


def test_token_scores_depend_on_letters_and_spelling(ctc):
  """Each part of the score changes it."""
  expected = score(ctc, *make_inputs(LENGTHS)).tokens
  for name in ('letter_head', 'linear_spelling', 'linear_2'):
    graphdef, state = nnx.split(ctc)
    other = nnx.merge(graphdef, state)
    parameter = getattr(other, name)
    parameter[...] = parameter[...] + normal(*parameter.shape, seed=5)
    assert (score(other, *make_inputs(LENGTHS)).tokens != expected).any(), name


def test_an_odd_stack_with_letters_is_refused():
  with pytest.raises(ValueError, match='stack is 3;'):
    dataclasses.replace(CONFIG, stack=3)


def test_an_adapter_without_letters():
  config = dataclasses.replace(CONFIG, stack=3, letter_layers=0, letter_hidden_size=0)
  adapter = CTCAdapter(config, rngs=nnx.Rngs(3))
  assert not [
    path
    for path, _ in nnx.to_flat_state(nnx.state(adapter))
    if 'letter' in str(path[0])
  ]
  scores = score(adapter, *make_inputs(LENGTHS))
  assert scores.letters is None and scores.letters_mask is None
  assert scores.tokens.shape == (A, 9, 1 + len(VOCABULARY))
  assert scores.mask.sum(1).tolist() == [9, 5, 0]
  embeddings, mask = run(adapter, *make_inputs(LENGTHS))
  assert embeddings.shape == (A, 9, E) and mask.shape == (A, 9)
