# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax.models import llama, whisper
from acl_jax.models.adapters import Stride, StrideConfig
from acl_jax.models.speech_llm import Prompt, SpeechLLM, causal
from data_pipeline.batches import NO_AUDIO, lay_out, pad

D, SLOTS = 24, 5
LLAMA = llama.Config(
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
WHISPER = whisper.Config(
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
FIRST_CLIPS = (0, 0, 1, 3)
SPOKEN = (3, 1, 5, 0, 2)  # embeddings in the slots of each of five clips


read = jax.jit(SpeechLLM.read, static_argnames='remat')
splice = jax.jit(SpeechLLM.splice)


@pytest.fixture(scope='module')
def model():
  rngs = nnx.Rngs(0)
  adapter = Stride(StrideConfig(2, 12, 16, D), rngs=rngs)
  parts = whisper.Whisper(WHISPER, rngs=rngs), adapter, llama.Llama(LLAMA, rngs=rngs)
  # Of the size where the content of a place makes a difference elsewhere.
  return SpeechLLM(*jax.tree.map(lambda w: w * 10 if w.std() > 0 else w, parts))


def clips():
  audio = np.random.default_rng(0).normal(size=(len(SPOKEN), SLOTS, D))
  valid = np.arange(SLOTS) < np.asarray(SPOKEN)[:, None]
  return jnp.asarray(audio, jnp.float32), jnp.asarray(valid)


def prompts(rows=PROMPTS, first_clips=FIRST_CLIPS, length=24):
  laid = [
    lay_out(row, first, SLOTS) for row, first in zip(rows, first_clips, strict=True)
  ]
  shape = len(laid), length
  tokens = pad([row.tokens for row in laid], shape, 1, np.int32)
  place = pad([row.place for row in laid], shape, NO_AUDIO, np.int32)
  valid = np.arange(length) < np.asarray([len(row.tokens) for row in laid])[:, None]
  return Prompt(*map(jnp.asarray, (tokens, place, valid)))


def embedded(model, row, first):
  """One prompt as its embeddings alone, put together by hand."""
  audio, _ = clips()
  parts = []
  for segment in row:
    if isinstance(segment, int):
      parts.append(audio[first + segment, : SPOKEN[first + segment]])
    else:
      parts.append(model.llama.embed(jnp.asarray([segment]))[0])
  return jnp.concatenate(parts)


def test_audio_stands_wherever_text_may(model):
  x, valid = splice(model, prompts(), *clips())
  for i, (row, first) in enumerate(zip(PROMPTS, FIRST_CLIPS, strict=True)):
    np.testing.assert_array_equal(x[i][valid[i]], embedded(model, row, first))
  assert not x[~valid].any()


def test_unused_slots_change_nothing(model):
  """Real positions see what they would if the holes were not there."""
  x, valid = splice(model, prompts(), *clips())
  hidden = read(model, x, valid)
  compact = np.zeros((len(PROMPTS), 17, D), np.float32)
  for i, (row, first) in enumerate(zip(PROMPTS, FIRST_CLIPS, strict=True)):
    alone = embedded(model, row, first)
    compact[i, : len(alone)] = alone
  expected = read(model, compact, jnp.arange(17)[None] < valid.sum(1, keepdims=True))
  for i, count in enumerate(valid.sum(1).tolist()):
    np.testing.assert_allclose(hidden[i][valid[i]], expected[i, :count], atol=3e-6)


def test_content_of_unused_slots_changes_nothing(model):
  audio, valid = clips()
  expected = read(model, *splice(model, prompts(), audio, valid))
  for rubbish in (1e6, jnp.nan):
    dirty = jnp.where(valid[..., None], audio, rubbish)
    x, kept = splice(model, prompts(), dirty, valid)
    np.testing.assert_array_equal(read(model, x, kept)[kept], expected[kept])


@pytest.mark.parametrize('clip_count', [0, 5])
def test_text_alone_is_the_plain_llm(model, clip_count):
  rows = ([(3, 4, 5, 6, 7, 8)], [(9, 10)])
  audio, audio_valid = clips()
  prompt = prompts(rows, (0, 0), length=7)
  x, valid = splice(model, prompt, audio[:clip_count], audio_valid[:clip_count])
  np.testing.assert_array_equal(valid, prompt.valid)
  hidden = read(model, x, valid)
  llama = jax.jit(lambda *inputs: model.llama(*inputs)[0])
  for i, (tokens,) in enumerate(rows):
    t = len(tokens)
    x = model.llama.embed(jnp.asarray([tokens]))
    expected = llama(x, jnp.arange(t)[None], jnp.tril(jnp.ones((1, t, t), bool)))
    np.testing.assert_allclose(hidden[i, :t], expected[0], atol=3e-6)


def test_nothing_is_seen_before_its_time(model):
  """The hidden state at t depends on the valid inputs up to t and on no other."""
  x, valid = splice(model, prompts(), *clips())
  row, t = 2, 11

  def state(x):
    return jnp.sum(model.read(x, valid)[row, t] ** 2)

  gradient = jnp.abs(jax.jit(jax.grad(state))(x)).max(-1)
  seen = np.zeros(valid.shape, bool)
  seen[row, : t + 1] = valid[row, : t + 1]
  assert seen.sum() == 3 + 1 + 1 + 3  # text, clip 1 of its five slots, text, clip 2
  np.testing.assert_array_equal(gradient > 0, seen)


def test_positions_count_what_is_valid():
  valid = jnp.asarray(
    [[True, False, False, True, True], [False, True, False, True, False]]
  )
  positions, mask = causal(valid)
  assert positions.tolist() == [[0, 0, 0, 1, 2], [0, 0, 0, 1, 1]]
  assert mask[0, 3].tolist() == [True, False, False, True, False]
  assert mask[1, 2].tolist() == [False, True, False, False, False]


def test_hearing_is_encoding_then_adapting(model):
  log_mel = jnp.asarray(np.random.default_rng(1).normal(size=(2, 14, 10)), jnp.float32)
  valid = jnp.arange(14)[None] < jnp.asarray([[14], [9]])
  embeddings, kept = jax.jit(SpeechLLM.hear)(model, log_mel, valid)
  assert embeddings.shape == (2, 4, D) and kept.sum(1).tolist() == [4, 3]
  expected, _ = model.adapt(*model.encoder(log_mel, valid))
  np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_recomputed_activations_are_the_same(model):
  x, valid = splice(model, prompts(), *clips())

  def loss(x, remat):
    return jnp.sum(jnp.where(valid[..., None], read(model, x, valid, remat), 0) ** 2)

  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  expected = gradient(x, None)
  for remat in ('full', 'dots'):
    np.testing.assert_allclose(gradient(x, remat), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('prefix', [(), (33, 5, 41, 7, 2)])
def test_a_prefix_read_once_is_the_prefix_of_every_row(model, prefix):
  p, prefix = len(prefix), jnp.asarray(prefix, jnp.int32)
  x, valid = splice(model, prompts(), *clips())
  start = jnp.broadcast_to(model.llama.embed(prefix[None]), (len(x), p, D))
  whole_valid = jnp.pad(valid, ((0, 0), (p, 0)), constant_values=True)

  def apart(x):
    return SpeechLLM.read(model, x, valid, prefix=prefix)

  def whole(x):
    x = jnp.concatenate([start, x], axis=1)
    return SpeechLLM.read(model, x, whole_valid)[:, p:]

  def loss(x, read):
    return jnp.sum(jnp.where(valid[..., None], read(x), 0) ** 2)

  actual, expected = (np.asarray(jax.jit(f)(x))[valid] for f in (apart, whole))
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  expected = gradient(x, whole)
  np.testing.assert_allclose(gradient(x, apart), expected, rtol=1e-4, atol=1e-4)
