# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax.models import llama, whisper
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.speech_llm import Prompt, SpeechLLM, causal_segment_mask
from acl_jax.text.layout import NO_AUDIO, layout_prompt
from data_pipeline.batches import pad

D, SLOTS = 24, 5
LLAMA = llama.LlamaConfig(
  vocab_size=53,
  hidden_size=D,
  intermediate_size=40,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=6,
  rope_theta=1e4,
  rms_norm_eps=1e-5,
  tie_word_embeddings=True,
  max_position_embeddings=64,
)
WHISPER = whisper.WhisperConfig(
  num_mel_bins=10,
  d_model=12,
  encoder_layers=1,
  encoder_attention_heads=2,
  encoder_ffn_dim=14,
  max_source_positions=16,
)
# Text only; audio in front, within, behind; two clips side by side; several turns.
PROMPTS = (
  [(3, 4, 5, 6, 7, 8)],
  [0, (9, 10)],
  [(11, 12, 13), 0, (14,), 1, (15, 16, 17, 18)],
  [(19,), 1, 0],
)
# Embeddings in the slots of the two clips that a row may have.
SPOKEN = ((0, 0), (3, 0), (1, 5), (0, 2))


read = jax.jit(SpeechLLM.read, static_argnames='remat')
splice = jax.jit(SpeechLLM.splice)


@pytest.fixture(scope='module')
def model():
  rngs = nnx.Rngs(0)
  adapter = StrideAdapter(StrideAdapterConfig(2, 12, 16, D), rngs=rngs)
  parts = whisper.Whisper(WHISPER, rngs=rngs), adapter, llama.Llama(LLAMA, rngs=rngs)
  # Of the size where the content of a place makes a difference elsewhere.
  return SpeechLLM(*jax.tree.map(lambda w: w * 10 if w.std() > 0 else w, parts))


def clips():
  audio = np.random.default_rng(0).normal(size=(len(SPOKEN), 2 * SLOTS, D))
  valid = np.arange(SLOTS) < np.asarray(SPOKEN)[..., None]
  return jnp.asarray(audio, jnp.float32), jnp.asarray(valid.reshape(len(SPOKEN), -1))


def prompts(rows=PROMPTS, length=24):
  places = range(SLOTS), range(SLOTS, 2 * SLOTS)
  laid = [layout_prompt(row, places) for row in rows]
  shape = len(laid), length
  tokens = pad([row.tokens for row in laid], shape, 1, np.int32)
  place = pad([row.audio_index for row in laid], shape, NO_AUDIO, np.int32)
  ids = pad([[1] * len(row.tokens) for row in laid], shape, 0, np.int32)
  return Prompt(*map(jnp.asarray, (tokens, place, ids)))


def embedded(model, number):
  """One prompt as its embeddings alone, put together by hand."""
  audio, _ = clips()
  parts = []
  for segment in PROMPTS[number]:
    if isinstance(segment, int):
      start = segment * SLOTS
      parts.append(audio[number, start : start + SPOKEN[number][segment]])
    else:
      parts.append(model.llama.embed(jnp.asarray([segment]))[0])
  return jnp.concatenate(parts)


def test_audio_stands_wherever_text_may(model):
  x, ids = splice(model, prompts(), *clips())
  for i in range(len(PROMPTS)):
    np.testing.assert_array_equal(x[i][ids[i] > 0], embedded(model, i))
  assert not x[ids == 0].any()


def test_unused_slots_change_nothing(model):
  """Real positions see what they would if the holes were not there."""
  x, ids = splice(model, prompts(), *clips())
  hidden = read(model, x, ids)
  compact = np.zeros((len(PROMPTS), 17, D), np.float32)
  compact_ids = np.zeros(compact.shape[:2], np.int32)
  for i in range(len(PROMPTS)):
    alone = embedded(model, i)
    compact[i, : len(alone)], compact_ids[i, : len(alone)] = alone, 1
  expected = read(model, compact, compact_ids)
  for i, count in enumerate(ids.sum(1).tolist()):
    np.testing.assert_allclose(hidden[i][ids[i] > 0], expected[i, :count], atol=3e-6)


def test_prompts_that_share_a_row_read_what_they_read_alone(model):
  """With holes in them, and behind a prefix that all of them see."""
  x, ids = splice(model, prompts(), *clips())
  prefix = jnp.asarray([33, 5, 41])
  row = jnp.concatenate([x[3, :14], x[1, :9], x[2, :20]])[None]
  segment_ids = jnp.concatenate([ids[3, :14], 2 * ids[1, :9], 3 * ids[2, :20]])[None]
  for start in (None, prefix):
    packed = read(model, row, segment_ids, prefix=start)[0]
    alone = read(model, x, ids, prefix=start)
    for number, (i, stop) in enumerate(((3, 14), (1, 9), (2, 20)), 1):
      kept = ids[i, :stop] > 0
      np.testing.assert_allclose(
        packed[segment_ids[0] == number], alone[i, :stop][kept], atol=1e-5
      )


def test_content_of_unused_slots_changes_nothing(model):
  audio, valid = clips()
  expected = read(model, *splice(model, prompts(), audio, valid))
  for rubbish in (1e6, jnp.nan):
    dirty = jnp.where(valid[..., None], audio, rubbish)
    x, ids = splice(model, prompts(), dirty, valid)
    kept = ids > 0
    np.testing.assert_array_equal(read(model, x, ids)[kept], expected[kept])


@pytest.mark.parametrize('slots', [0, 5])
def test_text_alone_is_the_plain_llm(model, slots):
  rows = ([(3, 4, 5, 6, 7, 8)], [(9, 10)])
  audio, audio_mask = clips()
  prompt = prompts(rows, length=7)
  x, ids = splice(model, prompt, audio[:2, :slots], audio_mask[:2, :slots])
  np.testing.assert_array_equal(ids, prompt.segment_ids)
  hidden = read(model, x, ids)
  llama = jax.jit(lambda *inputs: model.llama(*inputs)[0])
  for i, (tokens,) in enumerate(rows):
    t = len(tokens)
    x = model.llama.embed(jnp.asarray([tokens]))
    expected = llama(x, jnp.arange(t)[None], jnp.tril(jnp.ones((1, t, t), bool)))
    np.testing.assert_allclose(hidden[i, :t], expected[0], atol=3e-6)


def test_nothing_is_seen_before_its_time(model):
  """The hidden state at t depends on the valid inputs up to t and on no other."""
  x, ids = splice(model, prompts(), *clips())
  row, t = 2, 11

  def state(x):
    return jnp.sum(model.read(x, ids)[row, t] ** 2)

  gradient = jnp.abs(jax.jit(jax.grad(state))(x)).max(-1)
  seen = np.zeros(ids.shape, bool)
  seen[row, : t + 1] = ids[row, : t + 1] > 0
  assert seen.sum() == 3 + 1 + 1 + 3  # text, clip 1 of its five slots, text, clip 2
  np.testing.assert_array_equal(gradient > 0, seen)


def test_positions_count_what_is_valid_in_the_same_segment():
  ids = jnp.asarray([[1, 0, 0, 1, 1, 2], [0, 3, 5, 0, 5, 0]])
  positions, mask = causal_segment_mask(ids)
  assert positions.tolist() == [[0, 0, 0, 1, 2, 0], [0, 0, 0, 0, 1, 0]]
  assert mask[0, 4].tolist() == [True, False, False, True, True, False]
  assert mask[1, 4].tolist() == [False, False, True, False, True, False]
  assert not mask[1, 3].any()


def test_hearing_is_encoding_then_adapting(model):
  log_mel = jnp.asarray(np.random.default_rng(1).normal(size=(2, 14, 10)), jnp.float32)
  valid = jnp.arange(14)[None] < jnp.asarray([[14], [9]])
  embeddings, kept = jax.jit(SpeechLLM.hear)(model, log_mel, valid)
  assert embeddings.shape == (2, 4, D) and kept.sum(1).tolist() == [4, 3]
  expected, _ = model.adapt(*model.encoder(log_mel, valid))
  np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_recomputed_activations_are_the_same(model):
  x, ids = splice(model, prompts(), *clips())

  def loss(x, remat):
    hidden = read(model, x, ids, remat)
    return jnp.sum(jnp.where(ids[..., None] > 0, hidden, 0) ** 2)

  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  expected = gradient(x, None)
  for remat in ('full', 'dots'):
    np.testing.assert_allclose(gradient(x, remat), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('prefix', [(), (33, 5, 41, 7, 2)])
def test_a_prefix_read_once_is_the_prefix_of_every_row(model, prefix):
  p, prefix = len(prefix), jnp.asarray(prefix, jnp.int32)
  x, ids = splice(model, prompts(), *clips())
  valid = ids > 0
  start = jnp.broadcast_to(model.llama.embed(prefix[None]), (len(x), p, D))
  whole_ids = jnp.pad(ids, ((0, 0), (p, 0)), constant_values=1)

  def apart(x):
    return SpeechLLM.read(model, x, ids, prefix=prefix)

  def whole(x):
    x = jnp.concatenate([start, x], axis=1)
    return SpeechLLM.read(model, x, whole_ids)[:, p:]

  def loss(x, read):
    return jnp.sum(jnp.where(valid[..., None], read(x), 0) ** 2)

  actual, expected = (np.asarray(jax.jit(f)(x))[valid] for f in (apart, whole))
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  expected = gradient(x, whole)
  np.testing.assert_allclose(gradient(x, apart), expected, rtol=1e-4, atol=1e-4)
