# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax.models import llama, whisper
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.layers import unroll_layers
from acl_jax.models.speech_llm import Prompt, SpeechLLM, causal_segment_mask
from acl_jax.text.layout import NO_AUDIO, layout_prompt
from data_pipeline.batches import pad
from tests.tiny_weights import draw

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
# Text only; audio first, in the middle, last; two adjacent clips; several turns.
PROMPTS = (
  [(3, 4, 5, 6, 7, 8)],
  [0, (9, 10)],
  [(11, 12, 13), 0, (14,), 1, (15, 16, 17, 18)],
  [(19,), 1, 0],
)
# The number of embeddings in the slots of each row's two clips.
CLIP_LENGTHS = ((0, 0), (3, 0), (1, 5), (0, 2))


hidden_states = jax.jit(SpeechLLM.hidden_states, static_argnames='remat')
splice = jax.jit(SpeechLLM.splice)


@pytest.fixture(scope='module')
def model():
  def create():
    rngs = nnx.Rngs(0)
    adapter = StrideAdapter(StrideAdapterConfig(2, 12, 16, D), rngs=rngs)
    return SpeechLLM(
      whisper.Whisper(WHISPER, rngs=rngs), adapter, llama.Llama(LLAMA, rngs=rngs)
    )

  # So large that the content of a position affects other positions measurably.
  return draw(create, scale=0.2)


def clips():
  audio = np.random.default_rng(0).normal(size=(len(CLIP_LENGTHS), 2 * SLOTS, D))
  audio_mask = np.arange(SLOTS) < np.asarray(CLIP_LENGTHS)[..., None]
  audio_mask = audio_mask.reshape(len(CLIP_LENGTHS), -1)
  return jnp.asarray(audio, jnp.float32), jnp.asarray(audio_mask)


def prompts(rows=PROMPTS, length=24):
  slots = range(SLOTS), range(SLOTS, 2 * SLOTS)
  layouts = [layout_prompt(row, slots) for row in rows]
  shape = len(layouts), length
  tokens = pad([row.tokens for row in layouts], shape, 1, np.int32)
  audio_index = pad([row.audio_index for row in layouts], shape, NO_AUDIO, np.int32)
  ids = pad([[1] * len(row.tokens) for row in layouts], shape, 0, np.int32)
  return Prompt(*map(jnp.asarray, (tokens, audio_index, ids)))


def embedded(model, number):
  """The embeddings of one prompt, concatenated without padding."""
  audio, _ = clips()
  parts = []
  for segment in PROMPTS[number]:
    if isinstance(segment, int):
      start = segment * SLOTS
      parts.append(audio[number, start : start + CLIP_LENGTHS[number][segment]])
    else:
      parts.append(model.llama.embed(jnp.asarray([segment]))[0])
  return jnp.concatenate(parts)


def test_audio_may_be_anywhere_in_a_prompt(model):
  x, ids = splice(model, prompts(), *clips())
  for i in range(len(PROMPTS)):
    np.testing.assert_array_equal(x[i][ids[i] > 0], embedded(model, i))
  assert not x[ids == 0].any()


def test_unused_slots_change_nothing(model):
  """Hidden states are those of the prompt without its unused slots."""
  x, ids = splice(model, prompts(), *clips())
  hidden = hidden_states(model, x, ids)
  compact = np.zeros((len(PROMPTS), 17, D), np.float32)
  compact_ids = np.zeros(compact.shape[:2], np.int32)
  for i in range(len(PROMPTS)):
    alone = embedded(model, i)
    compact[i, : len(alone)], compact_ids[i, : len(alone)] = alone, 1
  expected = hidden_states(model, compact, compact_ids)
  for i, count in enumerate(ids.sum(1).tolist()):
    np.testing.assert_allclose(hidden[i][ids[i] > 0], expected[i, :count], atol=3e-6)


def test_packed_prompts_have_the_hidden_states_of_separate_rows(model):
  """With unused slots in them, and after a shared prefix."""
  x, ids = splice(model, prompts(), *clips())
  prefix = jnp.asarray([33, 5, 41])
  row = jnp.concatenate([x[3, :14], x[1, :9], x[2, :20]])[None]
  segment_ids = jnp.concatenate([ids[3, :14], 2 * ids[1, :9], 3 * ids[2, :20]])[None]
  for start in (None, prefix):
    packed = hidden_states(model, row, segment_ids, shared_prefix=start)[0]
    alone = hidden_states(model, x, ids, shared_prefix=start)
    for number, (i, stop) in enumerate(((3, 14), (1, 9), (2, 20)), 1):
      mask = ids[i, :stop] > 0
      np.testing.assert_allclose(
        packed[segment_ids[0] == number], alone[i, :stop][mask], atol=1e-5
      )


def test_content_of_unused_slots_changes_nothing(model):
  audio, audio_mask = clips()
  expected = hidden_states(model, *splice(model, prompts(), audio, audio_mask))
  for content in (1e6, jnp.nan):
    dirty = jnp.where(audio_mask[..., None], audio, content)
    x, ids = splice(model, prompts(), dirty, audio_mask)
    mask = ids > 0
    np.testing.assert_array_equal(hidden_states(model, x, ids)[mask], expected[mask])


@pytest.mark.parametrize('slots', [0, 5])
def test_a_prompt_without_audio_equals_the_plain_llm(model, slots):
  rows = ([(3, 4, 5, 6, 7, 8)], [(9, 10)])
  audio, audio_mask = clips()
  prompt = prompts(rows, length=7)
  x, ids = splice(model, prompt, audio[:2, :slots], audio_mask[:2, :slots])
  np.testing.assert_array_equal(ids, prompt.segment_ids)
  hidden = hidden_states(model, x, ids)
  llama = jax.jit(lambda *inputs: model.llama(*inputs)[0])
  for i, (tokens,) in enumerate(rows):
    t = len(tokens)
    x = model.llama.embed(jnp.asarray([tokens]))
    expected = llama(x, jnp.arange(t)[None], jnp.tril(jnp.ones((1, t, t), bool)))
    np.testing.assert_allclose(hidden[i, :t], expected[0], atol=3e-6)


def test_attention_is_causal_and_ignores_padding(model):
  """The hidden state at t depends on the unmasked inputs up to t and on no others."""
  x, ids = splice(model, prompts(), *clips())
  row, t = 2, 11

  def state(x):
    return jnp.sum(model.hidden_states(x, ids)[row, t] ** 2)

  gradient = jnp.abs(jax.jit(jax.grad(state))(x)).max(-1)
  attended = np.zeros(ids.shape, bool)
  attended[row, : t + 1] = ids[row, : t + 1] > 0
  assert attended.sum() == 3 + 1 + 1 + 3  # text, clip 1 (one of 5 slots), text, clip 2
  np.testing.assert_array_equal(gradient > 0, attended)


def test_positions_count_unmasked_positions_of_the_segment():
  ids = jnp.asarray([[1, 0, 0, 1, 1, 2], [0, 3, 5, 0, 5, 0]])
  positions, mask = causal_segment_mask(ids)
  assert positions.tolist() == [[0, 0, 0, 1, 2, 0], [0, 0, 0, 0, 1, 0]]
  assert mask[0, 4].tolist() == [True, False, False, True, True, False]
  assert mask[1, 4].tolist() == [False, False, True, False, True, False]
  assert not mask[1, 3].any()


def test_encode_audio_encodes_then_adapts(model):
  log_mel = jnp.asarray(np.random.default_rng(1).normal(size=(2, 14, 10)), jnp.float32)
  frame_mask = jnp.arange(14)[None] < jnp.asarray([[14], [9]])
  embeddings, mask = jax.jit(SpeechLLM.encode_audio)(model, log_mel, frame_mask)
  assert embeddings.shape == (2, 4, D) and mask.sum(1).tolist() == [4, 3]
  expected, _ = model.adapt(*model.encoder(log_mel, frame_mask))
  np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_remat_does_not_change_gradients(model):
  x, ids = splice(model, prompts(), *clips())

  def loss(x, remat):
    hidden = hidden_states(model, x, ids, remat)
    return jnp.sum(jnp.where(ids[..., None] > 0, hidden, 0) ** 2)

  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  expected = gradient(x, None)
  for remat in ('full', 'dots'):
    np.testing.assert_allclose(gradient(x, remat), expected, rtol=1e-4, atol=1e-4)


def test_unrolling_layers_changes_nothing(model):
  x, ids = splice(model, prompts(), *clips())
  unrolled = nnx.merge(*nnx.split(model))
  unroll_layers(unrolled)
  assert unrolled.llama.unroll and unrolled.encoder.unroll and not model.llama.unroll
  expected, mask = hidden_states(model, x, ids), ids > 0
  actual = hidden_states(unrolled, x, ids)
  np.testing.assert_allclose(actual[mask], expected[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('prefix', [(), (33, 5, 41, 7, 2)])
def test_a_shared_prefix_equals_a_prefix_in_every_row(model, prefix):
  p, prefix = len(prefix), jnp.asarray(prefix, jnp.int32)
  x, ids = splice(model, prompts(), *clips())
  token_mask = ids > 0
  embedded_prefix = jnp.broadcast_to(model.llama.embed(prefix[None]), (len(x), p, D))
  ids_with_prefix = jnp.pad(ids, ((0, 0), (p, 0)), constant_values=1)

  def shared(x):
    return SpeechLLM.hidden_states(model, x, ids, shared_prefix=prefix)

  def repeated(x):
    x = jnp.concatenate([embedded_prefix, x], axis=1)
    return SpeechLLM.hidden_states(model, x, ids_with_prefix)[:, p:]

  def loss(x, forward):
    return jnp.sum(jnp.where(token_mask[..., None], forward(x), 0) ** 2)

  actual, expected = (
    np.asarray(jax.jit(forward)(x))[token_mask] for forward in (shared, repeated)
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  expected = gradient(x, repeated)
  np.testing.assert_allclose(gradient(x, shared), expected, rtol=1e-4, atol=1e-4)
