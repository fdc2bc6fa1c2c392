# SPDX-License-Identifier: Apache-2.0
"""Beam search, against a search in Python that computes every prefix anew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax.models.attention_adapter import AttentionAdapter
from acl_jax.models.transcript_writer import END, REPEATS
from tests.adapter_inputs import make_inputs, normal
from tests.models.attention_adapter_test import CONFIG, VOCABULARY

LENGTHS = (27, 14, 0, 22, 19, 25)

write = jax.jit(AttentionAdapter.greedy)
score = jax.jit(AttentionAdapter.scores)


def make_adapter(seed, beams):
  """Return an adapter so unsure that the likeliest class is often a mistake."""
  config = dataclasses.replace(CONFIG, beams=beams)
  adapter = AttentionAdapter(config, rngs=nnx.Rngs(seed))
  adapter.vocabulary[...] = jnp.asarray(VOCABULARY)
  adapter.embed_tokens[...] = jnp.asarray(3 * normal(5, 8, seed=seed + 1))
  adapter.embed_tokens[...] = adapter.embed_tokens[...].at[END].divide(2)
  adapter.decoder.layer_norm.weight[...] /= 6
  return adapter


def log_probs(adapter, frames, mask, classes):
  """Return the log-probabilities of all classes after a prefix."""
  padded = np.zeros((1, 7), np.int32)  # one shape
  padded[0, : len(classes)] = classes
  logits = score(adapter, frames, mask, jnp.asarray(padded), jnp.arange(4))
  return np.asarray(jax.nn.log_softmax(logits[0, len(classes)]))


def search(adapter, frames, mask, beams):
  """Return the classes of the best transcript of one recording, without END."""
  limit = -(-int(mask.sum()) // CONFIG.stack)
  hypotheses = [((), 0.0, limit == 0)]  # classes, score, whether it is done
  mean = lambda hypothesis: hypothesis[1] / (len(hypothesis[0]) + 1)  # noqa: E731
  while not all(done for *_, done in hypotheses):
    longer = []
    for classes, total, done in hypotheses:
      if done or len(classes) >= limit:
        longer.append((classes, total, True))
        continue
      for next_class, value in enumerate(log_probs(adapter, frames, mask, classes)):
        new = classes if next_class == END else (*classes, next_class)
        longer.append((new, total + value, next_class == END))
    hypotheses = sorted(longer, key=lambda each: -each[1])[:beams]
    best = max((mean(each) for each in hypotheses if each[2]), default=-np.inf)
    if all(each[2] or mean(each) <= best for each in hypotheses):
      hypotheses = [each for each in hypotheses if each[2]]
  return list(max(hypotheses, key=mean)[0])


@pytest.mark.parametrize('beams', [2, 3])
def test_beam_search_finds_what_a_search_without_cache_finds(beams):
  frames, mask, table = make_inputs(LENGTHS)
  differs = []
  for seed in range(3, 8):  # with 7 a transcript is final before all others have ended
    adapter = make_adapter(seed, beams)
    tokens = np.asarray(write(adapter, frames, mask, table))
    for row in range(len(LENGTHS)):
      alone = slice(row, row + 1)
      classes = search(adapter, frames[alone], mask[alone], beams)
      written = [VOCABULARY[each - 1] for each in classes]
      assert tokens[row].tolist() == written + [-1] * (7 - len(written))
    greedy = write(make_adapter(seed, 1), frames, mask, table)
    differs.append((tokens != greedy).any(axis=1))
  assert np.mean(differs) > 0.3


def test_a_recording_is_searched_as_if_alone():
  frames, mask, table = make_inputs(LENGTHS)
  together = write(make_adapter(4, 3), frames, mask, table)
  alone = write(make_adapter(4, 3), frames[1:2, :14], mask[1:2, :14], table)
  np.testing.assert_array_equal(together[1:2, :4], alone)


def test_what_repeats_itself_is_given_up():
  config = dataclasses.replace(CONFIG, stack=1, max_target_positions=99, beams=2)
  adapter = AttentionAdapter(config, rngs=nnx.Rngs(0))
  # Whatever it hears, the state is constant, and so is which class is likeliest.
  adapter.decoder.layer_norm.weight[...] *= 0
  adapter.decoder.layer_norm.bias[...] += 1
  scores = jnp.asarray([0.0, 2.0, 1.0, -9.0, -9.0])
  adapter.embed_tokens[...] = jnp.broadcast_to(scores[:, None] / 8, (5, 8))
  frames, mask, table = make_inputs((60,))
  classes = np.asarray(write(adapter, frames, mask, table))[0]
  # By far the likeliest would be the first class, again and again.
  assert not (classes[:REPEATS] == 0).all()
