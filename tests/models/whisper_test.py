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
def oracle():
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
def whisper(oracle, tmp_path_factory):
  folder = tmp_path_factory.mktemp('whisper')
  oracle.save_pretrained(folder)
  return load_whisper(folder)


def log_mel(frames, rows=2, seed=0):
  shape = (rows, frames, SIZES['num_mel_bins'])
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


run = jax.jit(lambda whisper, x, valid: whisper(x, valid))


def hear(whisper, x, lengths):
  valid = np.arange(x.shape[1]) < np.asarray(lengths)[:, None]
  hidden, heard = run(whisper, x, jnp.asarray(valid))
  return np.asarray(hidden), np.asarray(heard)


def test_padded_to_30_seconds_equals_transformers(oracle, whisper):
  x = log_mel(3000)
  hidden, heard = hear(whisper, x, [3000, 3000])
  with torch.no_grad():
    expected = oracle.encoder(torch.from_numpy(x).mT).last_hidden_state.numpy()
  np.testing.assert_allclose(hidden, expected, atol=1e-5)
  assert heard.shape == (2, 1500) and heard.all()


@pytest.mark.parametrize('frames', [46, 2])
def test_true_length_equals_transformers(oracle, whisper, frames):
  encoder = oracle.encoder  # which demands as many frames as it has positions
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
  hidden, _ = hear(whisper, x, [frames, frames])
  np.testing.assert_allclose(hidden, expected, atol=1e-5)


def test_content_of_the_padding_changes_nothing(whisper):
  x = log_mel(60)
  lengths = [47, 32]
  expected, heard = hear(whisper, x, lengths)
  assert heard.sum(axis=1).tolist() == [24, 16]
  for rubbish in (0.0, -7.5, 1e6):
    dirty = np.where(
      (np.arange(60) < np.array(lengths)[:, None])[..., None], x, rubbish
    )
    actual, _ = hear(whisper, dirty.astype(np.float32), lengths)
    assert np.abs((actual - expected)[heard]).max() == 0.0


def test_amount_of_padding_changes_nothing(whisper):
  x = log_mel(47, rows=1)
  expected, _ = hear(whisper, x, [47])
  assert expected.shape[1] == 24
  padded = np.pad(x, ((0, 0), (0, 13), (0, 0)))
  actual, heard = hear(whisper, padded, [47])
  assert heard.sum() == 24
  np.testing.assert_allclose(actual[:, :24], expected, atol=1e-5)


def test_rows_without_signal_are_finite(whisper):
  hidden, heard = hear(whisper, log_mel(30), [30, 0])
  assert np.isfinite(hidden).all() and not heard[1].any()


def test_audio_beyond_the_positions_is_refused(whisper):
  with pytest.raises(ValueError, match='has 3001 frames; Whisper hears 3000 at most'):
    whisper(jnp.zeros((1, 3001, 10)), jnp.ones((1, 3001), bool))


@pytest.mark.parametrize(
  'wrong, message',
  [
    ({'d_model': 25}, 'd_model = 25 is not a multiple of encoder_attention_heads = 4'),
    ({'encoder_layers': 0}, 'encoder_layers = 0 is not a positive integer'),
  ],
)
def test_impossible_sizes_are_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    WhisperConfig(**(SIZES | wrong))


def test_computes_in_the_dtype_of_the_input():
  model = Whisper(WhisperConfig(**SIZES), rngs=nnx.Rngs(0))
  x, valid = jnp.ones((2, 13, 10), jnp.bfloat16), jnp.ones((2, 13), bool)
  hidden, _ = jax.eval_shape(run, model, x, valid)
  assert hidden.dtype == jnp.bfloat16 and hidden.shape == (2, 7, 24)
