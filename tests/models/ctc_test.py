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

from acl_jax.models.ctc import BLANK, CTCAdapter, CTCAdapterConfig, Scores, ctc_segments
from acl_jax.models.spelling import NUM_LETTERS, token_letters
from tests.adapter_inputs import FRAME_SIZE as D
from tests.adapter_inputs import LLM_SIZE as E
from tests.adapter_inputs import heard, normal

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
  # Far from its start, where nearly every frame is as likely one class as another.
  adapter.linear_2[...] *= 6
  adapter.linear_spelling[...] += normal(8, 5, seed=4)
  adapter.spelling.letters[...] = jnp.asarray(
    token_letters([' to', 'day', '.', ' two'])
  )
  adapter.bias[...] = jnp.asarray([1.0, -0.5, 0.3, 0.2, -0.1])
  return adapter


@pytest.mark.parametrize('rubbish', [-7.5, 1e6, jnp.nan, jnp.inf])
def test_content_of_the_padding_changes_nothing(ctc, rubbish):
  frames, valid, table = heard(LENGTHS)
  expected, kept = run(ctc, frames, valid, table)
  dirty = jnp.where(valid[..., None], frames, rubbish)
  actual, also_kept = run(ctc, dirty, valid, table)
  assert kept.any() and not kept[2].any()
  np.testing.assert_array_equal(kept, also_kept)
  assert jnp.abs((actual - expected)[kept]).max() == 0.0


def test_amount_of_padding_changes_nothing(ctc):
  frames, valid, table = heard(LENGTHS)
  expected, kept = run(ctc, frames, valid, table)
  more = jnp.pad(frames, ((0, 0), (0, 10), (0, 0)))
  more_valid = jnp.pad(valid, ((0, 0), (0, 10)))
  actual, also_kept = run(ctc, more, more_valid, table)
  np.testing.assert_array_equal(kept, also_kept[:, : kept.shape[1]])
  assert not also_kept[:, kept.shape[1] :].any()
  actual = actual[:, : kept.shape[1]]
  np.testing.assert_allclose(actual[kept], expected[kept], atol=1e-5)


def collapse(classes):
  """CTC's rule, in words: merge repeats, then drop blanks."""
  return [c for c, _ in itertools.groupby(classes) if c != BLANK]


S = 9  # slots
paths = st.lists(st.integers(0, 3), max_size=S)


@given(st.lists(paths, min_size=A, max_size=A))
def test_segments_follow_the_rule(clips):
  logits, valid = normal(A, S, 4), np.zeros((A, S), bool)
  for clip, path in enumerate(clips):
    logits[clip, np.arange(len(path)), path] += 10
    valid[clip, : len(path)] = True
  start, segment = find_segments(logits, valid)
  for clip, path in enumerate(clips):
    path = np.array(path + [BLANK] * (S - len(path)))
    assert path[start[clip]].tolist() == collapse(path)
    np.testing.assert_array_equal(segment[clip] >= 0, path != BLANK)
    number = -1  # of the token that a frame belongs to
    for i, c in enumerate(path):
      number += c != BLANK and (i == 0 or path[i - 1] != c)
      assert segment[clip, i] == (number if c != BLANK else -1)


class Told(CTCAdapter):
  """A recogniser that recognises what it is told."""

  told: jax.Array

  def scores(self, frames, valid, table, key=None, candidates=None):
    valid = jnp.ones(self.told.shape[:2], bool)
    return Scores(self.told, valid, jnp.zeros((1, 3, 2)), jnp.ones((1, 3), bool))


@jax.jit
def hear(logits):
  """Embeddings, which of them are any, and the hard decision, of a clip's logits."""
  adapter = Told(CONFIG, rngs=nnx.Rngs(0))
  adapter.vocabulary[...] = jnp.asarray(VOCABULARY)
  adapter.told = nnx.data(logits)
  frames, valid, table = heard(LENGTHS)
  given = frames[:1], valid[:1], table
  return *adapter(*given), adapter.greedy(*given)


@given(paths)
def test_certain_tokens_are_their_embeddings(path):
  path = path + [BLANK] * (S - len(path))
  embeddings, kept, greedy = hear(np.float32(200) * np.eye(5, dtype='f')[None, path])
  words = [VOCABULARY[c - 1] for c in collapse(path)]
  _, _, table = heard(LENGTHS)
  expected = np.asarray(table)[words].reshape(-1, E)
  np.testing.assert_allclose(embeddings[kept], expected, rtol=1e-6)
  assert kept[0].tolist() == [i < len(words) for i in range(len(path))]
  assert greedy[greedy >= 0].tolist() == words


@given(st.integers(0, 10**6))
def test_doubt_is_an_expectation(seed):
  """Each token is the mean embedding under what its frames hold for no blank."""
  logits = normal(1, S, 5, seed=seed) * 2
  embeddings, kept, _ = hear(logits)
  _, _, table = heard(LENGTHS)
  p = np.exp(logits[0] - logits[0].max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  best = p.argmax(-1)
  groups = [list(g) for _, g in itertools.groupby(range(S), key=best.__getitem__)]
  groups = [group for group in groups if best[group[0]] != BLANK]
  assert kept.sum() == len(groups)
  for embedding, group in zip(embeddings[0], groups, strict=False):
    mass = p[group].sum(0)[1:]
    expected = mass @ np.asarray(table)[list(VOCABULARY)] / mass.sum()
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_greedy_is_the_hard_decision_of_the_logits(ctc):
  logits, valid, *_ = score(ctc, *heard(LENGTHS))
  greedy = jax.jit(CTCAdapter.greedy)(ctc, *heard(LENGTHS))
  for clip in range(A):
    best = np.argmax(logits[clip], -1)[np.asarray(valid[clip])]
    words = [VOCABULARY[c - 1] for c in collapse(best.tolist())]
    assert greedy[clip][greedy[clip] >= 0].tolist() == words
  embeddings, kept = run(ctc, *heard(LENGTHS))
  assert (greedy >= 0).sum(1).tolist() == kept.sum(1).tolist()
  assert kept.any()


def test_gradients_reach_every_parameter_and_no_padding(ctc):
  frames, valid, table = heard(LENGTHS)
  split = nnx.split(ctc, nnx.Param, ...)

  def loss(params, frames):
    embeddings, kept = nnx.merge(split[0], params, split[2])(frames, valid, table)
    return jnp.sum(jnp.where(kept[..., None], embeddings, 0) ** 2)

  params, inputs = jax.jit(jax.grad(loss, argnums=(0, 1)))(split[1], frames)
  for path, gradient in nnx.to_flat_state(params):
    assert jnp.abs(gradient[...]).max() > 0, path
  assert (jnp.abs(inputs).max(-1) > 0).tolist() == valid.tolist()


def test_some_of_the_vocabulary_may_be_scored(ctc):
  everything = score(ctc, *heard(LENGTHS))
  some = score(ctc, *heard(LENGTHS), None, jnp.asarray([2, 0]))
  expected = everything.tokens[..., jnp.asarray([BLANK, 2 + 1, 0 + 1])]
  np.testing.assert_allclose(some.tokens, expected, atol=1e-6)
  np.testing.assert_allclose(some.letters, everything.letters, atol=1e-6)


def test_the_vocabulary_is_no_parameter(ctc):
  params = nnx.state(ctc, nnx.Param)
  assert 'vocabulary' in nnx.state(ctc) and 'vocabulary' not in params


def test_dropout_iff_a_key(ctc):
  inputs = heard(LENGTHS)
  plain = score(ctc, *inputs)
  once, again, other = (score(ctc, *inputs, jax.random.key(i)) for i in (0, 0, 1))
  for kind in ('letters', 'tokens'):
    expected, actual = getattr(once, kind), getattr(again, kind)
    np.testing.assert_array_equal(actual, expected)
    assert (actual != getattr(plain, kind)).any()
    assert (actual != getattr(other, kind)).any()


def test_letters_are_recognised_twice_as_often_as_tokens(ctc):
  scores = score(ctc, *heard(LENGTHS))
  assert scores.tokens.shape == (A, 7, 1 + len(VOCABULARY))
  assert scores.letters.shape == (A, 14, 1 + NUM_LETTERS)
  assert scores.valid.sum(1).tolist() == [7, 4, 0]
  assert scores.letters_valid.sum(1).tolist() == [14, 7, 0]


def test_tokens_follow_letters_and_spelling(ctc):
  """Either part of the score moves it."""
  expected = score(ctc, *heard(LENGTHS)).tokens
  for name in ('letter_head', 'linear_spelling', 'linear_2'):
    graphdef, state = nnx.split(ctc)
    other = nnx.merge(graphdef, state)
    parameter = getattr(other, name)
    parameter[...] = parameter[...] + normal(*parameter.shape, seed=5)
    assert (score(other, *heard(LENGTHS)).tokens != expected).any(), name


def test_letter_frames_come_in_pairs():
  with pytest.raises(ValueError, match='stack is 3; two letter frames'):
    dataclasses.replace(CONFIG, stack=3)


def test_an_encoder_of_few_frames_needs_no_letters():
  config = dataclasses.replace(CONFIG, stack=3, letter_layers=0, letter_hidden_size=0)
  adapter = CTCAdapter(config, rngs=nnx.Rngs(3))
  assert not [
    path
    for path, _ in nnx.to_flat_state(nnx.state(adapter))
    if 'letter' in str(path[0])
  ]
  scores = score(adapter, *heard(LENGTHS))
  assert scores.letters is None and scores.letters_valid is None
  assert scores.tokens.shape == (A, 9, 1 + len(VOCABULARY))
  assert scores.valid.sum(1).tolist() == [9, 5, 0]
  embeddings, kept = run(adapter, *heard(LENGTHS))
  assert embeddings.shape == (A, 9, E) and kept.shape == (A, 9)
