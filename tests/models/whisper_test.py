# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.models.whisper import Whisper, WhisperConfig
from acl_jax.weights.whisper import load_whisper

SIZES = dict(
  num_mel_bins=10,
  d_model=24,
  encoder_layers=3,
  encoder_attention_heads=4,
  encoder_ffn_dim=40,
  max_source_positions=1500,
)


@pytest.fixture(scope='module')
def reference():
  torch.manual_seed(0)
  other = dict(vocab_size=53, decoder_layers=1, decoder_attention_heads=2)
  other |= dict(decoder_ffn_dim=8, init_std=0.2, pad_token_id=0)
  other |= dict(bos_token_id=1, eos_token_id=2, decoder_start_token_id=3)
  model = transformers.WhisperModel(transformers.WhisperConfig(**SIZES, **other)).eval()
  for name, weight in model.named_parameters():
    if name.endswith(('bias', 'layer_norm.weight')):  # else all zeros and ones
      torch.nn.init.normal_(weight, 0.5, 0.3)
  return model


@pytest.fixture(scope='module')
def whisper(reference, tmp_path_factory):
  folder = tmp_path_factory.mktemp('whisper')
  reference.save_pretrained(folder)
  return load_whisper(folder)


def log_mel(frames, rows=2, seed=0):
  shape = (rows, frames, SIZES['num_mel_bins'])
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


run = jax.jit(lambda whisper, x, frame_mask: whisper(x, frame_mask))


def encode(whisper, x, lengths):
  frame_mask = np.arange(x.shape[1]) < np.asarray(lengths)[:, None]
  hidden, mask = run(whisper, x, jnp.asarray(frame_mask))
  return np.asarray(hidden), np.asarray(mask)


@pytest.mark.parametrize('silence', [-1, 60])
def test_silence_leaves_room_for_speech(silence):
  sizes = SIZES | {'max_source_positions': 30}
  assert WhisperConfig(**sizes, trailing_silence=59).trailing_silence == 59
  with pytest.raises(ValueError, match=rf'trailing_silence = {silence}\b.*\b60\b'):
    WhisperConfig(**sizes, trailing_silence=silence)


def test_padded_to_30_seconds_equals_transformers(reference, whisper):
  x = log_mel(3000)
  hidden, mask = encode(whisper, x, [3000, 3000])
  with torch.no_grad():
    expected = reference.encoder(torch.from_numpy(x).mT).last_hidden_state.numpy()
  np.testing.assert_allclose(hidden, expected, atol=1e-5)
  assert mask.shape == (2, 1500) and mask.all()


@pytest.mark.parametrize('frames', [46, 2])
def test_true_length_equals_transformers(reference, whisper, frames):
  encoder = reference.encoder  # requires as many frames as it has positions
  positions, config = encoder.embed_positions, encoder.config
  encoder.embed_positions = torch.nn.Embedding(
    frames // 2, 24, _weight=positions.weight[: frames // 2]
  )
  encoder.config = WhisperConfig(**{**SIZES, 'max_source_positions': frames // 2})
  try:
    x = log_mel(frames)
    with torch.no_grad():
      expected = encoder(torch.from_numpy(x).mT).last_hidden_state.numpy()
  finally:
    encoder.embed_positions, encoder.config = positions, config
  hidden, _ = encode(whisper, x, [frames, frames])
  np.testing.assert_allclose(hidden, expected, atol=1e-5)


def test_padding_content_changes_nothing(whisper):
  x = log_mel(60)
  lengths = [47, 32]
  expected, mask = encode(whisper, x, lengths)
  assert mask.sum(axis=1).tolist() == [24, 16]
  for padding in (0.0, -7.5, 1e6, np.nan, np.inf):
    dirty = np.where(
      (np.arange(60) < np.array(lengths)[:, None])[..., None], x, padding
    )
    actual, _ = encode(whisper, dirty.astype(np.float32), lengths)
    assert np.abs((actual - expected)[mask]).max() == 0.0


def test_amount_of_padding_changes_nothing(whisper):
  x = log_mel(47, rows=1)
  expected, _ = encode(whisper, x, [47])
  assert expected.shape[1] == 24
  padded = np.pad(x, ((0, 0), (0, 13), (0, 0)))
  actual, mask = encode(whisper, padded, [47])
  assert mask.sum() == 24
  np.testing.assert_allclose(actual[:, :24], expected, atol=1e-5)


def test_empty_rows_are_finite(whisper):
  hidden, mask = encode(whisper, log_mel(30), [30, 0])
  assert np.isfinite(hidden).all() and not mask[1].any()


def test_audio_beyond_the_positions_is_refused(whisper):
  with pytest.raises(ValueError, match='3001 frames.* 3000'):
    whisper(jnp.zeros((1, 3001, 10)), jnp.ones((1, 3001), bool))


ROW, POSITIONS = 64, 15  # log-mel frames of a row, encoder frames of an utterance


@pytest.fixture(scope='module')
def short(whisper):
  """A model whose rows may be longer than its utterances."""
  model = jax.tree.map(lambda x: x, whisper)
  positions = model.embed_positions
  model.embed_positions = positions.replace(positions[:POSITIONS])
  return model


@jax.jit
def encode_packed(whisper, x, segment_ids, probe):
  """Encoder frames, and the gradients of their product with a probe."""
  graphdef, state = nnx.split(whisper)

  def loss(state, x):
    frames = nnx.merge(graphdef, state).encode_rows(x, segment_ids, None)
    mask = segment_ids[:, ::2, None] > 0
    return jnp.sum(jnp.where(mask, frames * probe, 0)), frames

  gradients, frames = jax.grad(loss, (0, 1), has_aux=True)(state, x)
  return frames, gradients


@st.composite
def layouts(draw):
  """(start, stop) of up to four utterances in a row; each starts at an even frame."""
  layout, start = [], 0
  for _ in range(draw(st.integers(1, 4))):
    start += 2 * draw(st.integers(0, 2))
    if start >= ROW:
      break
    stop = start + draw(st.integers(1, min(2 * POSITIONS, ROW - start)))
    layout.append((start, stop))
    start = stop + stop % 2
  return layout


def random(shape, seed):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lay_out(layout):
  """A packed row of noise, and the same utterances one a row: frames, ids, probe."""
  packed = (
    np.full((1, ROW, 10), 9.0, np.float32),
    np.zeros((1, ROW), np.int32),
    random((1, ROW // 2, 24), 1),
  )
  alone = np.zeros((4, ROW, 10), np.float32), np.zeros((4, ROW), np.int32)
  alone += (np.zeros((4, ROW // 2, 24), np.float32),)
  for i, (start, stop) in enumerate(layout):
    alone[0][i, : stop - start] = random((stop - start, 10), i)
    packed[0][0, start:stop] = alone[0][i, : stop - start]
    packed[1][0, start:stop], alone[1][i, : stop - start] = i + 1, 1
    frames = slice(start // 2, -(-stop // 2))
    alone[2][i, : frames.stop - frames.start] = packed[2][0, frames]
  return packed, alone


@pytest.mark.full
@settings(max_examples=40)
@given(layouts())
def test_packed_utterances_and_their_gradients_are_as_alone(short, layout):
  packed, alone = lay_out(layout)
  frames, (gradient, by_frame) = encode_packed(short, *packed)
  expected, (expected_gradient, expected_by_frame) = encode_packed(short, *alone)
  for i, (start, stop) in enumerate(layout):
    own = frames[0, start // 2 : -(-stop // 2)]
    np.testing.assert_allclose(own, expected[i, : len(own)], atol=1e-5)
    own = by_frame[0, start:stop]
    scale = np.abs(own).max()
    np.testing.assert_allclose(
      own / scale, expected_by_frame[i, : stop - start] / scale, atol=1e-5
    )
  assert (by_frame[packed[1] == 0] == 0).all()

  def assert_close(actual, expected):
    scale = np.abs(expected).max() + 1e-6
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-5)

  jax.tree.map(assert_close, gradient, expected_gradient)


@settings(max_examples=20)
@given(layouts(), st.sampled_from([0.0, -7.5, np.nan, np.inf]))
def test_other_utterances_and_padding_of_a_row_change_nothing(short, layout, value):
  (x, ids, probe), _ = lay_out(layout)
  expected, (_, gradient) = encode_packed(short, x, ids, probe)
  dirty = np.where((ids == 0)[..., None], np.float32(value), x)
  dirty = np.where((ids > 1)[..., None], dirty * -3 + 1, dirty)
  actual, (_, actual_gradient) = encode_packed(short, dirty, ids, probe)
  first = ids[:, ::2] == 1
  assert jnp.abs(actual - expected)[first].max() == 0.0
  assert jnp.abs(actual_gradient - gradient)[ids == 1].max() == 0.0
  assert jnp.isfinite(actual).all()
  others = ids[:, ::2] > 1
  assert not others.any() or jnp.abs(actual - expected)[others].max() > 0.1


def test_an_utterance_beyond_the_positions_of_a_row_is_nan(short):
  (x, ids, probe), _ = lay_out([(0, 2 * POSITIONS), (32, 34)])
  assert jnp.isfinite(encode_packed(short, x, ids, probe)[0]).all()
  ids[0, 2 * POSITIONS] = 1
  assert jnp.isnan(encode_packed(short, x, ids, probe)[0][0, :POSITIONS]).all()


@pytest.mark.parametrize('remat', ['full', 'dots'])
def test_remat_recomputes_and_changes_nothing(short, remat):
  x, ids, probe = map(jnp.asarray, lay_out([(4, 21), (22, 51)])[0])

  def loss(model, x, remat):
    return jnp.sum(model.encode_rows(x, ids, remat) * probe)

  differentiate = jax.value_and_grad(loss, argnums=1)
  for remat_jaxpr in (None, remat):
    jaxpr = jax.make_jaxpr(differentiate, static_argnums=2)(short, x, remat_jaxpr)
    assert ('remat' in str(jaxpr)) == (remat_jaxpr is not None)
  plain, recomputed = (
    jax.jit(differentiate, static_argnums=2)(short, x, r) for r in (None, remat)
  )
  np.testing.assert_allclose(recomputed[0], plain[0], rtol=1e-6)
  np.testing.assert_allclose(recomputed[1], plain[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'wrong, message',
  [
    ({'d_model': 25}, 'd_model = 25 .*encoder_attention_heads = 4'),
    ({'encoder_layers': 0}, 'encoder_layers = 0 '),
  ],
)
def test_impossible_sizes_are_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    WhisperConfig(**(SIZES | wrong))


def test_computes_in_the_dtype_of_the_input():
  model = jax.eval_shape(lambda: Whisper(WhisperConfig(**SIZES), rngs=nnx.Rngs(0)))
  x, frame_mask = jnp.ones((2, 13, 10), jnp.bfloat16), jnp.ones((2, 13), bool)
  hidden, _ = jax.eval_shape(run, model, x, frame_mask)
  assert hidden.dtype == jnp.bfloat16 and hidden.shape == (2, 7, 24)
