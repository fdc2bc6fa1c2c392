# SPDX-License-Identifier: Apache-2.0
import json

import jax
import jax.numpy as jnp
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
from tests.tiny_conformer import SIZES, VOCABULARY, log_mel, oracle

LENGTHS = (41, 27)

run = jax.jit(lambda model, x, valid: model.logits(model(x, valid)[0]))


def logits_of(theirs, x, valid):
  with torch.no_grad():
    return theirs(torch.from_numpy(x), torch.from_numpy(valid)).logits.numpy()


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'attention_bias': False, 'convolution_bias': False, 'scale_input': False},
    {'subsampling_factor': 4},
  ],
)
def test_both_ways_and_every_tensor_once(changes, tmp_path):
  theirs, (x, valid) = oracle(**changes), log_mel(LENGTHS)
  theirs.save_pretrained(tmp_path / 'theirs')
  ours = load_conformer(tmp_path / 'theirs')
  assert isinstance(ours, ConformerCTC)
  kept = np.asarray(ours(jnp.asarray(x), jnp.asarray(valid))[1])
  expected = logits_of(theirs, x, valid)
  actual = run(ours, x, jnp.asarray(valid))
  np.testing.assert_allclose(actual[kept], expected[kept], atol=1e-5)
  save_conformer(ours, tmp_path / 'ours')
  again, report = ParakeetForCTC.from_pretrained(
    tmp_path / 'ours', output_loading_info=True
  )
  assert not any(report.values()), report
  np.testing.assert_array_equal(logits_of(again.eval(), x, valid), expected)
  jax.tree.map(np.testing.assert_array_equal, ours, load_conformer(tmp_path / 'ours'))


def test_an_encoder_alone(tmp_path):
  theirs = oracle().encoder
  theirs.save_pretrained(tmp_path / 'theirs')
  ours = load_conformer(tmp_path / 'theirs')
  assert isinstance(ours, Conformer)
  save_conformer(ours, tmp_path / 'ours')
  again = ParakeetEncoder.from_pretrained(tmp_path / 'ours')
  for name, weight in theirs.state_dict().items():
    np.testing.assert_array_equal(again.state_dict()[name], weight)


def test_what_it_was_trained_with_is_kept(tmp_path):
  config = ConformerConfig(**SIZES, features='kaldi', dropout=0.25)
  model = ConformerCTC(config, VOCABULARY, rngs=nnx.Rngs(0))
  save_conformer(model, tmp_path)
  assert load_conformer(tmp_path).config == config
  assert ParakeetForCTC.from_pretrained(tmp_path).config.encoder_config.dropout == 0.25


def test_a_limited_context_cannot_be_exported(tmp_path):
  config = ConformerConfig(**SIZES, attention_context=(8, 0))
  with pytest.raises(ValueError, match='Transformers has no Parakeet of limited'):
    save_conformer(Conformer(config, rngs=nnx.Rngs(0)), tmp_path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('parakeet')
  oracle().save_pretrained(folder)
  return folder


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'model_type': 'parakeet_tdt'}, "model_type is 'parakeet_tdt', neither"),
    ({'vocab_size': '9'}, "vocab_size = '9' is no number of classes"),
    ({'pad_token_id': 0}, 'pad_token_id = 0; the blank is the last class, 12'),
    ({'vocab_size': 9, 'pad_token_id': 8}, 'ctc_head.weight has shape'),
    ({'encoder_config': []}, 'encoder_config is not an object'),
    ({'encoder': {'hidden_act': 'relu'}}, "hidden_act = 'relu' is not supported"),
    ({'encoder': {'subsampling_conv_stride': 3}}, 'subsampling_conv_stride = 3 is not'),
    ({'encoder': {'rotary': True}}, 'unknown attribute rotary = True'),
    ({'encoder': {'conv_kernel_size': 7}}, 'depthwise_conv.weight has shape'),
    ({'encoder': {'num_hidden_layers': 4}}, 'no tensor encoder.layers.3'),
    ({'encoder': {'num_hidden_layers': 2}}, 'nothing takes encoder.layers.2'),
    ({'encoder': {'hidden_size': 1 << 40}}, 'has shape'),
    ({'encoder': {'hidden_size': 'wide'}}, "hidden_size = 'wide' is no int"),
  ],
)
def test_a_config_that_disagrees_is_refused(folder, tmp_path, changes, message):
  found = json.loads((folder / 'config.json').read_text())
  changes = dict(changes)
  found['encoder_config'] |= changes.pop('encoder', {})
  (tmp_path / 'config.json').write_text(json.dumps(found | changes))
  (tmp_path / 'model.safetensors').symlink_to(folder / 'model.safetensors')
  with pytest.raises(ValueError, match=message) as error:
    load_conformer(tmp_path)
  assert str(error.value).startswith(str(tmp_path)) and '\n' not in str(error.value)


def test_golden_counts():
  """Transformers' default sizes, those of a published Parakeet, from shapes alone."""
  large = ConformerConfig(1_024, 24, 8, 4_096, 9)
  model = jax.eval_shape(lambda: ConformerCTC(large, 1_025, rngs=nnx.Rngs(0)))
  count = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
  with torch.device('meta'):
    theirs = ParakeetForCTC(ParakeetCTCConfig(encoder_config=ParakeetEncoderConfig()))
  assert count == sum(p.numel() for p in theirs.parameters()) == 608_799_745
