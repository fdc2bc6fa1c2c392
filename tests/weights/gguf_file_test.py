# SPDX-License-Identifier: Apache-2.0
import struct

import gguf
import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from acl_jax.weights import gguf as gguf_file
from acl_jax.weights import table
from acl_jax.weights.configuration import llama_axis_sizes
from acl_jax.weights.llama import load_llama
from tests import tiny_llama
from tests.tiny_llama import VARIANTS

Kind = gguf.GGMLQuantizationType


def write(path, model, kind=Kind.F32):
  """Write a model as llama.cpp's converter does; vectors stay in float32."""
  config = model.config
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_block_count(config.num_hidden_layers)
  writer.add_context_length(config.max_position_embeddings)
  writer.add_embedding_length(config.hidden_size)
  writer.add_feed_forward_length(config.intermediate_size)
  writer.add_head_count(config.num_attention_heads)
  writer.add_head_count_kv(config.num_key_value_heads)
  writer.add_key_length(config.head_dim)
  writer.add_value_length(config.head_dim)
  writer.add_rope_dimension_count(config.head_dim)
  writer.add_rope_freq_base(config.rope_theta)
  writer.add_layer_norm_rms_eps(config.rms_norm_eps)
  writer.add_vocab_size(config.vocab_size)
  writer.add_array('tokenizer.ggml.tokens', ['a', 'é'])
  rows = [*gguf_file.LLAMA]
  if config.tie_word_embeddings:
    rows = [row for row in rows if row[1] != 'lm_head']
  for name, tensor in table.export_tensors(model, rows, llama_axis_sizes(config)):
    array = tensor.read()
    dtype = kind if array.ndim == 2 else Kind.F32
    writer.add_tensor(name, gguf.quantize(array, dtype), raw_dtype=dtype)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


@pytest.mark.parametrize('variant', VARIANTS)
def test_float32_loads_exactly(variant, tmp_path):
  model = tiny_llama.build(VARIANTS[variant])
  write(tmp_path / 'x.gguf', model)
  tiny_llama.assert_equal(load_llama(tmp_path / 'x.gguf'), model)


def test_float16_loads_rounded_values(tmp_path):
  write(tmp_path / 'x.gguf', tiny_llama.build(), Kind.F16)
  actual = load_llama(tmp_path / 'x.gguf').layers.mlp.up_proj[...]
  expected = tiny_llama.build().layers.mlp.up_proj[...].astype(jnp.float16)
  np.testing.assert_array_equal(actual, expected.astype(jnp.float32))


@pytest.mark.parametrize('kind', gguf_file.KINDS, ids=lambda kind: kind.name)
def test_blocks_are_dequantised_as_by_the_gguf_package(kind, tmp_path):
  random = np.random.default_rng(kind)
  width, size = gguf.GGML_QUANT_SIZES[kind]
  # Bytes this small never form an infinity.
  blocks = random.integers(0, 60, (3, 5 * size), np.uint8)
  writer = gguf.GGUFWriter(tmp_path / 'x.gguf', 'llama')
  dtype = {Kind.F32: np.float32, Kind.F16: np.float16}.get(kind, np.uint8)
  for name in ('t', 'u'):
    writer.add_tensor(name, blocks.view(dtype), raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  actual = gguf_file.read(tmp_path / 'x.gguf')[1]['u']
  data = gguf.GGUFReader(tmp_path / 'x.gguf').tensors[1].data
  assert actual.shape == (3, 5 * width)
  np.testing.assert_array_equal(actual.read(), gguf.dequantize(data, kind))


def test_metadata_is_read_as_by_the_gguf_package(tmp_path):
  write(tmp_path / 'x.gguf', tiny_llama.build())
  actual, _ = gguf_file.read(tmp_path / 'x.gguf')
  fields = gguf.GGUFReader(tmp_path / 'x.gguf').fields
  expected = {
    key: field.contents()
    for key, field in fields.items()
    if not key.startswith('GGUF.')
  }
  assert actual == expected | {'llama.attention.layer_norm_rms_epsilon': 1e-5}


@pytest.mark.parametrize(
  'metadata',
  [
    {'expert_count': 4},
    {'rope.scaling.factor': 2},
    {'attention.sliding_window': 7},
    {'rope.dimension_count': 4},
    {'attention.value_length': 4},
    {'attention.head_count_kv': 3},
    {'attention.head_count': 0},
    {'block_count': 2},
    {'block_count': 2**31},
    {'feed_forward_length': 41},
  ],
  ids=str,
)
def test_an_unsupported_model_is_refused(metadata, tmp_path, monkeypatch):
  path = tmp_path / 'x.gguf'
  write(path, tiny_llama.build())
  original, tensors = gguf_file.read(path)
  changed = original | {f'llama.{key}': value for key, value in metadata.items()}
  monkeypatch.setattr(gguf_file, 'read', lambda path: (changed, tensors))
  with pytest.raises(ValueError, match='x.gguf'):
    load_llama(path)


def header(*parts, tensors=0, entries=0):
  """Build a header; parts are strings, or a struct code and its numbers."""
  data = struct.pack('<4sIQQ', b'GGUF', 3, tensors, entries)
  for part in parts:
    if isinstance(part, str):
      data += struct.pack('<Q', len(part)) + part.encode()
    else:
      data += struct.pack('<' + part[0], *part[1:])
  return data + bytes(64)


MALFORMED = {
  'empty': b'',
  'not gguf': bytes(100),
  'cut in the magic': b'GG',
  'version 1': struct.pack('<4sIQQ', b'GGUF', 1, 0, 0),
  'big-endian': struct.pack('>4sIQQ', b'GGUF', 3, 0, 0),
  'endless metadata': header(entries=2**63),
  'endless tensors': header(tensors=2**63),
  'endless name': header(('Q', 2**63), entries=1),
  'endless string': header('a', ('IQ', 8, 2**62), entries=1),
  'endless array': header('a', ('IIQ', 9, 4, 2**62), entries=1),
  'endless array of strings': header('a', ('IIQ', 9, 8, 2**60), entries=1),
  'array of arrays': header('a', ('IIQIQ', 9, 9, 1, 4, 0), entries=1),
  'unknown type': header('a', ('I', 13), entries=1),
  'not utf-8': header(('QB', 1, 255), entries=1),
  'twice': header('a', ('II', 4, 1), 'a', ('II', 4, 1), entries=2),
  'a tensor twice': header(*['t', ('IQIQ', 1, 1, 0, 0)] * 2, tensors=2),
  'many dimensions': header('t', ('I', 2**31), tensors=1),
  'large dimensions': header('t', ('IQQIQ', 2, 2**63, 2**63, 0, 0), tensors=1),
  'far away': header('t', ('IQIQ', 1, 1, 0, 2**63), tensors=1),
  'broken blocks': header('t', ('IQIQ', 1, 33, 8, 0), tensors=1),
  'unknown blocks': header('t', ('IQIQ', 1, 32, 15, 0), tensors=1),
  'no alignment': header('general.alignment', ('II', 4, 0), entries=1),
}


@pytest.mark.parametrize('name', MALFORMED)
def test_a_malformed_header_is_an_error_with_the_path(name, tmp_path):
  path = tmp_path / 'x.gguf'
  path.write_bytes(MALFORMED[name])
  with pytest.raises(ValueError, match='x.gguf: '):
    gguf_file.read(path)


@pytest.fixture(scope='module')
def valid_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('valid') / 'x.gguf'
  write(path, tiny_llama.build())
  return path.read_bytes()


def test_every_truncation_is_an_error_with_the_path(valid_file, tmp_path):
  path = tmp_path / 'x.gguf'
  for length in range(0, len(valid_file), 1499):
    path.write_bytes(valid_file[:length])
    with pytest.raises(ValueError, match='x.gguf: '):
      gguf_file.read_llama(path)


@hypothesis.given(
  flips=st.dictionaries(st.integers(0, 3200), st.binary(min_size=1, max_size=1))
)
@hypothesis.settings(max_examples=60)
def test_a_damaged_header_loads_or_names_the_path(flips, valid_file, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / 'damaged.gguf'
  data = bytearray(valid_file)
  for position, byte in flips.items():
    data[position : position + 1] = byte
  path.write_bytes(data)
  try:
    load_llama(path)
  except ValueError as error:
    assert str(path) in str(error)
