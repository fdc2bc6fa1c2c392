# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

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
  for padding in (0.0, -7.5, 1e6):
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
  model = Whisper(WhisperConfig(**SIZES), rngs=nnx.Rngs(0))
  x, frame_mask = jnp.ones((2, 13, 10), jnp.bfloat16), jnp.ones((2, 13), bool)
  hidden, _ = jax.eval_shape(run, model, x, frame_mask)
  assert hidden.dtype == jnp.bfloat16 and hidden.shape == (2, 7, 24)
