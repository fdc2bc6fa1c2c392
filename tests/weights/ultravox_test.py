# SPDX-License-Identifier: Apache-2.0
"""Folders made by hand as Ultravox are published: a projector, and maybe an encoder."""

import json

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from acl_jax import build, train
from acl_jax.weights.projector import load_projector
from acl_jax.weights.ultravox import HEAD_SIZE
from acl_jax.weights.whisper import export_whisper, load_whisper
from tests.tiny_world import load_config

STACK, WIDTH, HIDDEN, LLM = 3, 12, 14, 24
# What Transformers leaves out of a published `config.json` equals a default.
PUBLISHED = {
  'architectures': ['UltravoxModel'],
  'model_type': 'ultravox',
  'audio_model_id': 'someone/whisper',
  'text_model_id': 'someone/llama',
  'audio_token_index': 400,
  'hidden_size': HIDDEN,
  'stack_factor': STACK,
  'projector_ln_mid': True,
  'norm_init': 0.4,
  'torch_dtype': 'bfloat16',
}
PROJECTOR = 'multi_modal_projector.'


def projector_tensors():
  random = np.random.default_rng(5)
  shapes = {
    'ln_pre': (STACK * WIDTH,),
    'linear_1': (HIDDEN, STACK * WIDTH),
    'ln_mid': (HIDDEN // 2,),
    'linear_2': (LLM, HIDDEN // 2),
  }
  return {
    f'{PROJECTOR}{name}.weight': random.normal(size=shape).astype(ml_dtypes.bfloat16)
    for name, shape in shapes.items()
  }


def write(folder, tensors, **changes):
  folder.mkdir(exist_ok=True)
  save_file(tensors, folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(PUBLISHED | changes))
  return folder


def test_projector_alone_is_read(tmp_path):
  tensors = projector_tensors()
  folder = write(tmp_path / 'published', tensors)
  adapter = load_projector(folder)
  sizes = adapter.config
  assert (sizes.stack, sizes.encoder_size, sizes.hidden_size, sizes.llm_size) == (
    STACK,
    WIDTH,
    HIDDEN,
    LLM,
  )
  for name in ('ln_pre', 'linear_1', 'ln_mid', 'linear_2'):
    expected = tensors[f'{PROJECTOR}{name}.weight'].astype(np.float32).T
    np.testing.assert_array_equal(getattr(adapter, name)[...], expected)
  assert build.find_checkpoint(folder).encoder is None


@pytest.mark.parametrize('prefix', ['audio_tower.', 'audio_tower.model.encoder.'])
def test_encoder_that_was_tuned_is_read(tiny_world, tmp_path, prefix):
  encoder = load_whisper(tiny_world / 'whisper')
  tensors = {prefix + name: t.read() for name, t in export_whisper(encoder)}
  audio = {key: getattr(encoder.config, key) for key in ('d_model', 'encoder_layers')}
  audio |= {
    'model_type': 'whisper',
    'activation_function': 'gelu',
    'num_mel_bins': 80,
    'encoder_attention_heads': 2,
    'encoder_ffn_dim': 14,
    'max_source_positions': 50,
  }
  all_tensors = projector_tensors() | tensors
  folder = write(tmp_path / 'tuned', all_tensors, audio_config=audio)
  checkpoint = build.find_checkpoint(folder)
  assert checkpoint.encoder == folder
  loaded = load_whisper(folder)
  for path, value in nnx.to_flat_state(nnx.state(encoder)):
    actual = dict(nnx.to_flat_state(nnx.state(loaded)))[path]
    np.testing.assert_array_equal(actual[...], value[...])


def test_sizes_of_an_encoder_without_a_description_are_those_of_its_tensors(tmp_path):
  from acl_jax.weights.exported import read_exported_config

  width = 2 * HEAD_SIZE
  tensors = projector_tensors() | {
    'audio_tower.conv1.weight': np.zeros((width, 10, 3), np.float32),
    'audio_tower.layers.0.fc1.bias': np.zeros(40, np.float32),
    'audio_tower.embed_positions.weight': np.zeros((15, width), np.float32),
  }
  config = read_exported_config(write(tmp_path / 'tuned', tensors))
  assert config['audio_config'] == {
    'model_type': 'whisper',
    'activation_function': 'gelu',
    'num_mel_bins': 10,
    'd_model': width,
    'encoder_layers': 1,
    'encoder_attention_heads': 2,
    'encoder_ffn_dim': 40,
    'max_source_positions': 15,
  }


def renamed(old, new):
  return {
    name.replace(old, new): tensor for name, tensor in projector_tensors().items()
  }


@pytest.mark.parametrize(
  ('tensors', 'changes', 'message'),
  [
    ({}, {'projector_ln_mid': False}, r'v0\.4\.1 or earlier.*ln_post'),
    (renamed('ln_mid', 'ln_post'), {}, r'v0\.4\.1 or earlier.*ln_post'),
    (renamed('linear_1', '_proj_in'), {}, r'tensor .*_proj_in\.weight is not of an'),
    ({'ln_pre': None}, {}, r'ln_pre\.weight is missing'),
    ({}, {'num_projector_layers': 2}, r'num_projector_layers is 2; only 0'),
    ({}, {'projector_act': 'gelu'}, r"projector_act is 'gelu', not swiglu"),
    ({}, {'hidden_size': 16}, r'linear_1\.weight .*shape'),
    ({}, {'stack_factor': 'many'}, r'stack'),
    ({}, {'stack_factor': 5}, r'ln_pre\.weight .*shape'),
    ({'lora_A': (3, 4)}, {}, r'lora_A\.weight is a low-rank update; merge it'),
    ({'linear_2': (5,)}, {}, r'linear_2\.weight has the shape \(5,\)'),
  ],
)
def test_other_projectors_are_refused_by_name(tmp_path, tensors, changes, message):
  written = projector_tensors()
  if PROJECTOR in ''.join(tensors):
    written = tensors
  else:
    for name, shape in tensors.items():
      written[f'{PROJECTOR}{name}.weight'] = np.zeros(shape or (), np.float32)
      if shape is None:
        del written[f'{PROJECTOR}{name}.weight']
  folder = write(tmp_path / 'other', written, **changes)
  with pytest.raises(ValueError, match=message):
    load_projector(folder)


def test_training_starts_from_a_published_folder(tiny_world, tmp_path):
  folder = write(tmp_path / 'published', projector_tensors())
  stride = {'kind': 'stride', 'stack': STACK, 'hidden_size': HIDDEN}
  changes = {'adapter': stride, 'ctc': None, 'response.steps': 0}
  changes |= {'init_from': str(folder), 'response.ctc_weight': 0.0}
  changes |= {'response.transcription_weight': 0.0}
  model = train.train(load_config(tiny_world, **changes), tmp_path / 'on')
  expected = projector_tensors()[f'{PROJECTOR}linear_2.weight']
  np.testing.assert_array_equal(
    model.adapter.linear_2[...], expected.astype(np.float32).T
  )
