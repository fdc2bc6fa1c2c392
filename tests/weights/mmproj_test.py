# SPDX-License-Identifier: Apache-2.0
"""The mmproj file: names, keys, and the way back."""

import dataclasses

import gguf
import jax
import numpy as np
import pytest
from flax import nnx

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.whisper import Whisper, WhisperConfig
from acl_jax.weights import mmproj
from acl_jax.weights.gguf_write import Kind, Stored, write
from acl_jax.weights.mmproj import Speech, describe_mmproj, export_mmproj, load_mmproj
from acl_jax.weights.tensor import Tensor

ENCODER = WhisperConfig(
  num_mel_bins=80,
  d_model=12,
  encoder_layers=2,
  encoder_attention_heads=3,
  encoder_ffn_dim=14,
  max_source_positions=1_500,
)
ADAPTER = StrideAdapterConfig(stack=5, encoder_size=12, hidden_size=22, llm_size=24)


def build(encoder=ENCODER, adapter=ADAPTER) -> Speech:
  """Return random parts; values that float16 represents."""
  random = np.random.default_rng(0)
  parts = Speech(
    Whisper(encoder, rngs=nnx.Rngs(0)), StrideAdapter(adapter, rngs=nnx.Rngs(1))
  )
  for part in parts:
    for _, weight in nnx.to_flat_state(nnx.state(part)):
      values = random.normal(0, 1, weight.shape).astype(np.float16)
      weight[...] = values.astype(np.float32)
  return parts


@pytest.fixture(scope='module')
def speech() -> Speech:
  return build()


@pytest.fixture(scope='module')
def path(speech, tmp_path_factory):
  path = tmp_path_factory.mktemp('mmproj') / 'mmproj.gguf'
  write(path, describe_mmproj(speech), export_mmproj(speech))
  return path


def test_names_types_and_shapes_are_those_of_llama_cpp(path, speech):
  tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
  layer = ['attn_q', 'attn_v', 'attn_out', 'ln1', 'ln2', 'ffn_up', 'ffn_down']
  layers = {f'a.blk.{i}.{n}.{k}' for i in (0, 1) for n in layer for k in KINDS}
  assert tensors.keys() == layers | {
    *(f'a.conv1d.{i}.{k}' for i in (1, 2) for k in KINDS),
    *(f'a.blk.{i}.attn_k.weight' for i in (0, 1)),
    *('a.position_embd.weight', 'a.post_ln.weight', 'a.post_ln.bias'),
    *('mm.a.norm_pre.weight', 'mm.a.norm_mid.weight'),
    *('mm.a.mlp.1.weight', 'mm.a.mlp.2.weight'),
  }
  shape = lambda name: tensors[name].data.shape  # noqa: E731
  assert shape('a.conv1d.1.weight') == (12, 80, 3)
  assert shape('a.conv1d.2.bias') == (12, 1)
  assert shape('a.blk.1.ffn_up.weight') == (14, 12)
  assert shape('mm.a.mlp.1.weight') == (22, 60)
  assert shape('mm.a.mlp.2.weight') == (24, 11)
  half = {name for name, t in tensors.items() if t.tensor_type == Kind.F16}
  assert half == {'a.conv1d.1.weight', 'a.conv1d.2.weight'}
  q_proj = speech.encoder.layers.q_proj.weight[1].T
  np.testing.assert_array_equal(tensors['a.blk.1.attn_q.weight'].data, q_proj)


KINDS = ('weight', 'bias')


def test_keys_are_those_of_llama_cpp(speech):
  metadata = describe_mmproj(speech)
  assert metadata == {
    'general.architecture': 'clip',
    'general.type': 'mmproj',
    'clip.has_audio_encoder': True,
    'clip.projector_type': 'ultravox',
    'clip.use_gelu': True,
    'clip.audio.embedding_length': 12,
    'clip.audio.feed_forward_length': 14,
    'clip.audio.block_count': 2,
    'clip.audio.attention.head_count': 3,
    'clip.audio.attention.layer_norm_epsilon': 1e-5,
    'clip.audio.num_mel_bins': 80,
    'clip.audio.projection_dim': 24,
    'clip.audio.projector.stack_factor': 5,
  }


def test_a_file_is_read_to_the_bit(path, speech):
  loaded = load_mmproj(path)
  for actual, expected in zip(loaded, speech, strict=True):
    assert actual.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, nnx.state(actual), nnx.state(expected))


@pytest.mark.parametrize(
  'width, stack, message',
  [
    (512, 8, 'announces 187 positions and computes 188'),
    (768, 8, 'announces 187 positions and computes 188'),
    (1_280, 8, None),  # its padding is cut off by accident
    (512, 6, None),
    (1_280, 4, None),
  ],
)
def test_a_stack_at_which_llama_cpp_aborts_is_refused(width, stack, message):
  if message is None:
    return mmproj.check_stack(width, stack)
  with pytest.raises(ValueError, match=message):
    mmproj.check_stack(width, stack)


def test_shorter_positions_are_refused(speech):
  encoder = dataclasses.replace(ENCODER, max_source_positions=50)
  with pytest.raises(ValueError, match='max_source_positions = 50; .*are 1500'):
    describe_mmproj(build(encoder))


@pytest.mark.parametrize(
  'changes, removed, message',
  [
    ({'general.architecture': 'llama'}, (), "projector is 'ultravox'"),
    ({'clip.projector_type': 'qwen2a'}, (), "projector is 'qwen2a', not ultravox"),
    ({'clip.audio.projector.stack_factor': 0}, (), 'no projector with a stack'),
    ({'clip.audio.block_count': 3}, (), 'tensor a.blk.2.* is missing'),
    ({'clip.audio.block_count': 2**31}, (), '2147483648 layers but only'),
    ({'clip.audio.num_mel_bins': 81}, (), 'a.conv1d.1.weight has shape'),
    ({}, ('mm.a.norm_mid.weight',), 'tensor mm.a.norm_mid.weight is missing'),
    ({}, ('a.position_embd.weight',), 'max_source_positions'),
    ({}, ('mm.a.mlp.2.weight',), 'no projector with'),
  ],
)
def test_another_file_is_refused(changes, removed, message, speech, tmp_path):
  tensors = [t for t in export_mmproj(speech) if t.name not in removed]
  write(tmp_path / 'x.gguf', describe_mmproj(speech) | changes, tensors)
  with pytest.raises(ValueError, match=f'x.gguf: .*{message}'):
    load_mmproj(tmp_path / 'x.gguf')


@pytest.mark.parametrize('name', ['a.pre_ln.weight', 'v.blk.0.ln1.weight'])
def test_an_unknown_tensor_is_refused(name, speech, tmp_path):
  extra = Stored(name, Tensor.from_array(np.ones(12)), Kind.F32)
  tensors = [*export_mmproj(speech), extra]
  write(tmp_path / 'x.gguf', describe_mmproj(speech), tensors)
  with pytest.raises(ValueError, match=f'unexpected tensor {name}'):
    load_mmproj(tmp_path / 'x.gguf')
