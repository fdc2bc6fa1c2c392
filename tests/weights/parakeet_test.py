# SPDX-License-Identifier: Apache-2.0
import json

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import (
  ParakeetCTCConfig,
  ParakeetEncoder,
  ParakeetEncoderConfig,
  ParakeetForCTC,
)

from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.weights.parakeet import load_conformer, save_conformer
from tests.tiny_conformer import SIZES, VOCABULARY, build_reference, log_mel

LENGTHS = (41, 27)


@jax.jit
def logits_and_mask(model, x, frame_mask):
  frames, encoder_mask = model(x, frame_mask)
  return model.logits(frames), encoder_mask


def reference_logits(reference, x, frame_mask):
  with torch.no_grad():
    return reference(torch.from_numpy(x), torch.from_numpy(frame_mask)).logits.numpy()


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'attention_bias': False, 'convolution_bias': False, 'scale_input': False},
    {'subsampling_factor': 4},
  ],
)
def test_loading_and_saving_match_transformers(changes, tmp_path):
  reference, (x, frame_mask) = build_reference(**changes), log_mel(LENGTHS)
  reference.save_pretrained(tmp_path / 'reference')
  model = load_conformer(tmp_path / 'reference')
  assert isinstance(model, ConformerCTC)
  expected = reference_logits(reference, x, frame_mask)
  logits, mask = jax.tree.map(np.asarray, logits_and_mask(model, x, frame_mask))
  np.testing.assert_allclose(logits[mask], expected[mask], atol=1e-5)
  save_conformer(model, tmp_path / 'saved')
  reloaded, report = ParakeetForCTC.from_pretrained(
    tmp_path / 'saved', output_loading_info=True
  )
  assert not any(report.values()), report
  actual = reference_logits(reloaded.eval(), x, frame_mask)
  np.testing.assert_array_equal(actual, expected)
  jax.tree.map(np.testing.assert_array_equal, model, load_conformer(tmp_path / 'saved'))


def test_an_encoder_without_a_head(tmp_path):
  reference = build_reference().encoder
  reference.save_pretrained(tmp_path / 'reference')
  model = load_conformer(tmp_path / 'reference')
  assert isinstance(model, Conformer)
  save_conformer(model, tmp_path / 'saved')
  reloaded = ParakeetEncoder.from_pretrained(tmp_path / 'saved').state_dict()
  for name, weight in reference.state_dict().items():
    np.testing.assert_array_equal(reloaded[name], weight)


def test_training_settings_survive_a_round_trip(tmp_path):
  config = ConformerConfig(**SIZES, features='kaldi', dropout=0.25)
  shapes = jax.eval_shape(lambda: ConformerCTC(config, VOCABULARY, rngs=nnx.Rngs(0)))
  model = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  save_conformer(model, tmp_path)
  assert load_conformer(tmp_path).config == config
  assert ParakeetForCTC.from_pretrained(tmp_path).config.encoder_config.dropout == 0.25


def test_a_limited_context_cannot_be_exported(tmp_path):
  config = ConformerConfig(**SIZES, attention_context=(8, 0))
  model = jax.eval_shape(lambda: Conformer(config, rngs=nnx.Rngs(0)))
  with pytest.raises(ValueError, match=r'attention_context = \(8, 0\)'):
    save_conformer(model, tmp_path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('parakeet')
  build_reference().save_pretrained(folder)
  return folder


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'model_type': 'parakeet_tdt'}, "model_type .*'parakeet_tdt'"),
    ({'vocab_size': '9'}, "vocab_size = '9'"),
    ({'pad_token_id': 0}, r'pad_token_id = 0\b.* 12'),
    ({'vocab_size': 9, 'pad_token_id': 8}, r'ctc_head\.weight .*\(13, .*\(9, '),
    ({'encoder_config': []}, 'encoder_config'),
    ({'encoder': {'hidden_act': 'relu'}}, "hidden_act = 'relu'"),
    ({'encoder': {'subsampling_conv_stride': 3}}, 'subsampling_conv_stride = 3'),
    ({'encoder': {'rotary': True}}, 'rotary = True'),
    ({'encoder': {'conv_kernel_size': 7}}, r'depthwise_conv\.weight .* 5\).* 7\)'),
    ({'encoder': {'num_hidden_layers': 4}}, r'encoder\.layers\.3\.'),
    ({'encoder': {'num_hidden_layers': 2}}, r'encoder\.layers\.2\.'),
    ({'encoder': {'hidden_size': 1 << 40}}, rf'\b24\b.*\b{1 << 40}\b'),
    ({'encoder': {'hidden_size': 'wide'}}, r"hidden_size = 'wide' .*\bint\b"),
  ],
)
def test_an_inconsistent_config_is_refused(folder, tmp_path, changes, message):
  config = json.loads((folder / 'config.json').read_text())
  changes = dict(changes)
  config['encoder_config'] |= changes.pop('encoder', {})
  (tmp_path / 'config.json').write_text(json.dumps(config | changes))
  (tmp_path / 'model.safetensors').symlink_to(folder / 'model.safetensors')
  with pytest.raises(ValueError, match=message) as error:
    load_conformer(tmp_path)
  assert str(error.value).startswith(str(tmp_path)) and '\n' not in str(error.value)


def test_parameter_count_of_a_published_size():
  """The default sizes of Transformers, those of a published Parakeet; shapes only."""
  large = ConformerConfig(1_024, 24, 8, 4_096, 9)
  model = jax.eval_shape(lambda: ConformerCTC(large, 1_025, rngs=nnx.Rngs(0)))
  count = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
  with torch.device('meta'):
    reference = ParakeetForCTC(
      ParakeetCTCConfig(encoder_config=ParakeetEncoderConfig())
    )
  assert count == sum(p.numel() for p in reference.parameters()) == 608_799_745
