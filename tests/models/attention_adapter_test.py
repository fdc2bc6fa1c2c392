# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.models.attention_adapter import AttentionAdapter, AttentionAdapterConfig
from acl_jax.models.transcript_writer import END, MAX_NGRAM, REPEATS
from tests.adapter_inputs import FRAME_SIZE as D
from tests.adapter_inputs import LLM_SIZE as E
from tests.adapter_inputs import make_inputs, normal

LENGTHS = (27, 14, 0)
VOCABULARY = (7, 2, 9, 4)
CONFIG = AttentionAdapterConfig(
  d_model=8,
  decoder_layers=3,
  decoder_attention_heads=2,
  decoder_ffn_dim=10,
  max_target_positions=17,
  stack=4,
  encoder_size=D,
  start_length=3,
  llm_size=E,
  vocabulary_size=len(VOCABULARY),
)

run = jax.jit(lambda adapter, *inputs: adapter(*inputs))
write = jax.jit(AttentionAdapter.greedy)
score = jax.jit(AttentionAdapter.scores)


@pytest.fixture(scope='module')
def adapter():
  adapter = AttentionAdapter(CONFIG, rngs=nnx.Rngs(3))
  adapter.vocabulary[...] = jnp.asarray(VOCABULARY)
  # Far from the initial values, so that the audio decides what is written.
  _, state = nnx.split(adapter)
  noise = jax.tree.map(
    lambda x: 0.7 * jnp.asarray(normal(*x.shape, seed=x.size % 89)), state
  )
  for (_, x), (_, y) in zip(
    nnx.to_flat_state(state), nnx.to_flat_state(noise), strict=True
  ):
    if jnp.issubdtype(x.dtype, jnp.floating):
      x[...] = x[...] + y[...]
  adapter.embed_tokens[...] = adapter.embed_tokens[...].at[END].multiply(0.3)
  nnx.update(adapter, state)
  return adapter


def test_the_audio_decides_what_is_written(adapter):
  frames, frame_mask, table = make_inputs(LENGTHS)
  tokens = write(adapter, frames, frame_mask, table)
  assert tokens.shape == (3, 7)  # ceil(27 / 4)
  assert (tokens[0] != tokens[1]).any() and (tokens[2] == -1).all()
  assert set(np.unique(tokens)) <= {*VOCABULARY, -1}


@pytest.mark.parametrize('padding', [-7.5, 1e6, jnp.nan, jnp.inf])
def test_padding_content_changes_nothing(adapter, padding):
  frames, frame_mask, table = make_inputs(LENGTHS)
  expected, mask = run(adapter, frames, frame_mask, table)
  dirty = jnp.where(frame_mask[..., None], frames, padding)
  actual, actual_mask = run(adapter, dirty, frame_mask, table)
  assert mask.any() and not mask[2].any()
  np.testing.assert_array_equal(mask, actual_mask)
  assert jnp.abs(actual - expected).max() == 0.0
  assert jnp.abs(actual[~mask]).max() == 0.0


def test_amount_of_padding_changes_nothing(adapter):
  frames, frame_mask, table = make_inputs(LENGTHS)
  expected, mask = run(adapter, frames, frame_mask, table)
  padded = jnp.pad(frames, ((0, 0), (0, 10), (0, 0)))
  padded_mask = jnp.pad(frame_mask, ((0, 0), (0, 10)))
  actual, actual_mask = run(adapter, padded, padded_mask, table)
  assert not actual_mask[:, mask.shape[1] :].any()
  np.testing.assert_array_equal(mask, actual_mask[:, : mask.shape[1]])
  actual = actual[:, : mask.shape[1]]
  np.testing.assert_allclose(actual[mask], expected[mask], atol=1e-5)


def test_a_clip_is_written_as_if_alone(adapter):
  frames, frame_mask, table = make_inputs(LENGTHS)
  together, mask = run(adapter, frames, frame_mask, table)
  alone, alone_mask = run(adapter, frames[1:2, :14], frame_mask[1:2, :14], table)
  np.testing.assert_array_equal(mask[1:2, :4], alone_mask)
  np.testing.assert_allclose(together[1:2, :4], alone, atol=1e-5)


def test_cached_writing_is_the_argmax_of_the_full_forward_pass(adapter):
  frames, frame_mask, table = make_inputs(LENGTHS)
  tokens = np.asarray(write(adapter, frames, frame_mask, table))
  class_of = {token: i + 1 for i, token in enumerate(VOCABULARY)} | {-1: END}
  classes = np.vectorize(class_of.get)(tokens)
  everything = jnp.arange(len(VOCABULARY))
  logits = score(adapter, frames, frame_mask, jnp.asarray(classes), everything)
  best = np.asarray(logits.argmax(axis=-1))
  for row, length in enumerate(LENGTHS):
    limit = -(-length // CONFIG.stack)
    written = (classes[row] != END).sum()
    np.testing.assert_array_equal(best[row, :written], classes[row, :written])
    assert written == limit or best[row, written] == END


@given(st.permutations(range(4)), st.integers(1, 4))
def test_candidates_are_scored_as_in_the_whole_vocabulary(adapter, order, number):
  frames, frame_mask, _ = make_inputs(LENGTHS)
  classes = jnp.asarray([[1, 3, 4], [2, END, END], [END, END, END]])
  every = score(adapter, frames, frame_mask, classes, jnp.arange(4))
  candidates = jnp.asarray(order[:number])
  some = score(adapter, frames, frame_mask, classes, candidates)
  columns = jnp.pad(candidates + 1, (1, 0))
  np.testing.assert_allclose(some[:2], every[:2][..., columns], atol=1e-5)


def test_what_follows_does_not_change_the_scores_before(adapter):
  frames, frame_mask, _ = make_inputs(LENGTHS)
  first = jnp.asarray([[1, 3, 4], [2, 1, 1], [3, 3, 1]])
  second = first.at[:, 2].set(2)
  a, b = (
    score(adapter, frames, frame_mask, classes, jnp.arange(4))
    for classes in (first, second)
  )
  np.testing.assert_array_equal(a[:, :3], b[:, :3])
  assert jnp.abs(a[:2, 3] - b[:2, 3]).max() > 1e-3


def test_embeddings_lie_between_the_hard_token_and_the_expected_one(adapter):
  adapter = nnx.clone(adapter)
  adapter.linear[...] *= 0
  frames, frame_mask, table = make_inputs(LENGTHS)
  tokens = write(adapter, frames, frame_mask, table)
  hard = table[jnp.maximum(tokens, 0)]
  gates = []
  for bias in (50.0, 0.0, -50.0):
    adapter.gate[...], adapter.gate_bias[...] = jnp.zeros(8), jnp.full(1, bias)
    x, mask = run(adapter, frames, frame_mask, table)
    gates.append(x[mask])
  np.testing.assert_array_equal(mask, tokens >= 0)
  np.testing.assert_allclose(gates[0], hard[mask], atol=1e-6)
  np.testing.assert_allclose(gates[1], (gates[0] + gates[2]) / 2, atol=1e-6)
  assert jnp.abs(gates[2] - gates[0]).max() > 1e-2
  adapter.log_temperature[...] = jnp.full(1, -20.0)  # sharp: expected is hard
  np.testing.assert_allclose(
    run(adapter, frames, frame_mask, table)[0][mask], hard[mask], atol=1e-4
  )


def test_repetition_ends_a_transcript():
  config = dataclasses.replace(CONFIG, stack=1, max_target_positions=99)
  adapter = AttentionAdapter(config, rngs=nnx.Rngs(0))
  # Whatever it hears, the state is constant, and so is what it writes.
  adapter.decoder.layer_norm.weight[...] *= 0
  adapter.decoder.layer_norm.bias[...] += adapter.embed_tokens[2]
  frames, frame_mask, table = make_inputs((60, 5))
  tokens = write(adapter, frames, frame_mask, table)
  assert (tokens >= 0).sum(axis=1).tolist() == [REPEATS, 5]
  assert MAX_NGRAM * REPEATS < 60


def test_gradients_reach_every_parameter_that_the_response_may_train(adapter):
  frames, frame_mask, table = make_inputs(LENGTHS)
  graphdef, params, rest = nnx.split(adapter, nnx.Param, ...)

  @jax.grad
  def loss(params):
    x, _ = nnx.merge(graphdef, params, rest)(frames, frame_mask, table)
    return jnp.sum(x**2)

  for path, gradient in nnx.to_flat_state(jax.jit(loss)(params)):
    assert jnp.isfinite(gradient[...]).all(), path
    if path[-2:] != ('k_proj', 'bias'):
      assert jnp.abs(gradient[...]).max() > 0, path


def test_too_many_positions_name_the_limit(adapter):
  frames, frame_mask, table = make_inputs((61,))
  with pytest.raises(ValueError, match=r'19 positions.*has 17.*config\.adapter\.stack'):
    adapter(frames, frame_mask, table)


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('decoder_layers', 0, 'decoder_layers = 0'),
    ('decoder_attention_heads', 3, 'd_model = 8 .* decoder_attention_heads = 3'),
    ('start_length', 0, 'start_length = 0'),
  ],
)
def test_bad_sizes_are_named(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **{field: value})
