# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.models.adapters import (
  BLANK,
  CTC,
  CTCConfig,
  Stride,
  StrideConfig,
  segments,
  stack_frames,
)

A, T, D, E, V = 3, 23, 5, 6, 11  # clips, frames, their width, LLM width, its vocabulary
LENGTHS = (23, 14, 0)
VOCABULARY = (7, 2, 9, 4)
CONFIG = CTCConfig(
  stack=3,
  encoder_size=D,
  hidden_size=8,
  intermediate_size=10,
  num_layers=2,
  kernel_size=4,
  dropout=0.5,
  llm_size=E,
  vocabulary_size=len(VOCABULARY),
)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def heard(frames=T):
  """Frames, which of them are signal, and the LLM's embeddings."""
  valid = np.arange(frames) < np.asarray(LENGTHS)[:, None]
  x = normal(A, frames, D, seed=1)
  return jnp.asarray(x), jnp.asarray(valid), jnp.asarray(normal(V, E, seed=2))


run = jax.jit(lambda adapter, *inputs: adapter(*inputs))
score = jax.jit(CTC.logits)
find_segments = jax.jit(segments)


@pytest.fixture(scope='module')
def ctc():
  adapter = CTC(CONFIG, rngs=nnx.Rngs(3))
  adapter.vocabulary[...] = jnp.asarray(VOCABULARY)
  # Far from its start, where nearly every frame is as likely one class as another.
  adapter.linear_2[...] *= 6
  adapter.bias[...] = jnp.asarray([1.0, -0.5, 0.3, 0.2, -0.1])
  return adapter


def stride(hidden):
  adapter = Stride(StrideConfig(3, D, hidden, E), rngs=nnx.Rngs(0))
  return jax.tree.map(lambda w: w + 0.3 * normal(*w.shape, seed=w.size), adapter)


def test_frames_are_stacked():
  frames, valid, _ = heard()
  stacked, kept = stack_frames(frames, valid, 4)
  assert stacked.shape == (A, 6, 4 * D)
  for clip, length in enumerate(LENGTHS):
    padded = np.zeros((24, D), np.float32)
    padded[:length] = frames[clip, :length]
    np.testing.assert_array_equal(stacked[clip], padded.reshape(6, 4 * D))
    assert kept[clip].sum() == -(-length // 4)


def test_stack_of_one_is_the_frames():
  frames, valid, _ = heard()
  stacked, kept = stack_frames(frames, valid, 1)
  np.testing.assert_array_equal(stacked, np.where(valid[..., None], frames, 0))
  np.testing.assert_array_equal(kept, valid)


class Projector(torch.nn.Module):
  """Ultravox's, written from its published code: stack, norm, SwiGLU, norm."""

  def __init__(self, adapter):
    super().__init__()
    self.weights = {
      name: torch.from_numpy(np.array(getattr(adapter, name)[...]))
      for name in ('ln_pre', 'linear_1', 'ln_mid', 'linear_2')
    }

  @staticmethod
  def norm(x, weight):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

  def forward(self, x, stack):
    b, t, c = x.shape
    x = torch.nn.functional.pad(x, (0, 0, 0, -t % stack)).view(b, -1, c * stack)
    x = torch.nn.functional.linear(
      self.norm(x, self.weights['ln_pre']), self.weights['linear_1'].T
    )
    x, gate = x.chunk(2, dim=-1)
    x = torch.nn.functional.silu(gate) * x
    return self.norm(x, self.weights['ln_mid']) @ self.weights['linear_2']


def test_stride_is_the_projector_of_ultravox():
  adapter = stride(hidden=14)
  frames, valid, table = heard()
  embeddings, kept = run(adapter, frames, valid, table)
  assert embeddings.shape == (A, 8, E) and kept.sum(1).tolist() == [8, 5, 0]
  masked = torch.from_numpy(np.array(frames * valid[..., None]))
  expected = Projector(adapter)(masked, 3).numpy()
  np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_stride_without_a_hidden_layer_is_linear():
  adapter = stride(hidden=None)
  frames, valid, table = heard()
  embeddings, _ = run(adapter, frames, valid, table)
  stacked, _ = stack_frames(frames, valid, 3)
  np.testing.assert_allclose(embeddings, stacked @ adapter.linear[...], atol=1e-6)
  assert len(jax.tree.leaves(adapter)) == 1


@pytest.mark.parametrize('rubbish', [-7.5, 1e6, jnp.nan, jnp.inf])
@pytest.mark.parametrize('kind', ['ctc', 'linear', 'projector'])
def test_content_of_the_padding_changes_nothing(ctc, kind, rubbish):
  adapter = ctc if kind == 'ctc' else stride(None if kind == 'linear' else 14)
  frames, valid, table = heard()
  expected, kept = run(adapter, frames, valid, table)
  dirty = jnp.where(valid[..., None], frames, rubbish)
  actual, also_kept = run(adapter, dirty, valid, table)
  assert kept.any() and not kept[2].any()
  np.testing.assert_array_equal(kept, also_kept)
  assert jnp.abs((actual - expected)[kept]).max() == 0.0


def test_amount_of_padding_changes_nothing(ctc):
  frames, valid, table = heard()
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


class Told(CTC):
  """A recogniser that recognises what it is told."""

  told: jax.Array

  def logits(self, frames, valid, table, key=None):
    return self.told, jnp.ones(self.told.shape[:2], bool)


@jax.jit
def hear(logits):
  """Embeddings, which of them are any, and the hard decision, of a clip's logits."""
  adapter = Told(CONFIG, rngs=nnx.Rngs(0))
  adapter.vocabulary[...] = jnp.asarray(VOCABULARY)
  adapter.told = nnx.data(logits)
  frames, valid, table = heard()
  given = frames[:1], valid[:1], table
  return *adapter(*given), adapter.greedy(*given)


@given(paths)
def test_certain_tokens_are_their_embeddings(path):
  path = path + [BLANK] * (S - len(path))
  embeddings, kept, greedy = hear(np.float32(200) * np.eye(5, dtype='f')[None, path])
  words = [VOCABULARY[c - 1] for c in collapse(path)]
  _, _, table = heard()
  expected = np.asarray(table)[words].reshape(-1, E)
  np.testing.assert_allclose(embeddings[kept], expected, rtol=1e-6)
  assert kept[0].tolist() == [i < len(words) for i in range(len(path))]
  assert greedy[greedy >= 0].tolist() == words


@given(st.integers(0, 10**6))
def test_doubt_is_an_expectation(seed):
  """Each token is the mean embedding under what its frames hold for no blank."""
  logits = normal(1, S, 5, seed=seed) * 2
  embeddings, kept, _ = hear(logits)
  _, _, table = heard()
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
  logits, valid = score(ctc, *heard())
  greedy = jax.jit(CTC.greedy)(ctc, *heard())
  for clip in range(A):
    best = np.argmax(logits[clip], -1)[np.asarray(valid[clip])]
    words = [VOCABULARY[c - 1] for c in collapse(best.tolist())]
    assert greedy[clip][greedy[clip] >= 0].tolist() == words
  embeddings, kept = run(ctc, *heard())
  assert (greedy >= 0).sum(1).tolist() == kept.sum(1).tolist()
  assert kept.any()


def test_gradients_reach_every_parameter_and_no_padding(ctc):
  frames, valid, table = heard()
  split = nnx.split(ctc, nnx.Param, ...)

  def loss(params, frames):
    embeddings, kept = nnx.merge(split[0], params, split[2])(frames, valid, table)
    return jnp.sum(jnp.where(kept[..., None], embeddings, 0) ** 2)

  params, inputs = jax.jit(jax.grad(loss, argnums=(0, 1)))(split[1], frames)
  for path, gradient in nnx.to_flat_state(params):
    assert jnp.abs(gradient[...]).max() > 0, path
  assert (jnp.abs(inputs).max(-1) > 0).tolist() == valid.tolist()


def test_some_of_the_vocabulary_may_be_scored(ctc):
  everything, _ = score(ctc, *heard())
  some, _ = score(ctc, *heard(), None, jnp.asarray([2, 0]))
  expected = everything[..., jnp.asarray([BLANK, 2 + 1, 0 + 1])]
  np.testing.assert_allclose(some, expected, atol=1e-6)


def test_the_vocabulary_is_no_parameter(ctc):
  params = nnx.state(ctc, nnx.Param)
  assert 'vocabulary' in nnx.state(ctc) and 'vocabulary' not in params


def test_dropout_iff_a_key(ctc):
  plain, _ = score(ctc, *heard())
  dropped = [score(ctc, *heard(), jax.random.key(seed))[0] for seed in (0, 0, 1)]
  np.testing.assert_array_equal(dropped[0], dropped[1])
  assert (dropped[0] != plain).any() and (dropped[0] != dropped[2]).any()
