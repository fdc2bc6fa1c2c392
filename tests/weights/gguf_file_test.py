# SPDX-License-Identifier: Apache-2.0
import struct

import gguf
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from acl_jax.weights import gguf_file, table
from acl_jax.weights.configuration import llama_axis_sizes
from acl_jax.weights.gguf import read_llama
from acl_jax.weights.llama import load_llama, open_llama
from tests.models import families
from tests.weights.gguf_writer import Kind, write_gguf

# Those that the gguf package dequantises; a row holds blocks of one size.
KINDS = [kind for kind in Kind if gguf_file.can_dequantise(kind)]


def write(path, kind=Kind.F32):
  return write_gguf(path, families.build('llama3'), 'llama', kind)


def write_tensors(path, kind, *arrays):
  """Write tensors t0, t1 and so on, whose bytes are given."""
  writer = gguf.GGUFWriter(path, 'llama')
  dtype = {Kind.F32: np.float32, Kind.F16: np.float16}.get(kind, np.uint8)
  for i, array in enumerate(arrays):
    writer.add_tensor(f't{i}', array.view(dtype), raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def test_float16_loads_rounded_values(tmp_path):
  write(tmp_path / 'x.gguf', Kind.F16)
  actual = load_llama(tmp_path / 'x.gguf').layers.mlp.up_proj[...]
  for layer, block in zip(actual, families.build('llama3').model.layers, strict=True):
    expected = block.mlp.up_proj.weight.detach().numpy().T.astype(np.float16)
    np.testing.assert_array_equal(layer, expected.astype(np.float32))


def test_all_published_types_are_read():
  names = {kind.name for kind in KINDS}
  assert names >= set('F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K'.split())
  assert names >= set('Q5_K Q6_K IQ4_NL IQ4_XS IQ3_S IQ2_XXS IQ1_M TQ1_0'.split())


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.name)
def test_blocks_are_dequantised_as_by_the_gguf_package(kind, tmp_path):
  random = np.random.default_rng(kind)
  width, size = gguf.GGML_QUANT_SIZES[kind]
  # Bytes this small never form an infinity.
  blocks = random.integers(0, 60, (2, 3, 5 * size), np.uint8)
  write_tensors(tmp_path / 'x.gguf', kind, blocks[0], blocks[1])
  actual = gguf_file.read(tmp_path / 'x.gguf')[1]['t1']
  data = gguf.GGUFReader(tmp_path / 'x.gguf').tensors[1].data
  assert actual.shape == (3, 5 * width)
  expected = gguf.dequantize(data, kind)
  np.testing.assert_array_equal(actual.read(), expected)
  part = (slice(1, 3), slice(2, 2 * width))
  np.testing.assert_array_equal(actual.read_slice(part), expected[part])


def test_a_slice_reads_only_its_rows(tmp_path, monkeypatch):
  blocks = np.arange(7 * 34, dtype=np.uint8).reshape(7, 34) % 60
  write_tensors(tmp_path / 'x.gguf', Kind.Q8_0, blocks)
  tensor = gguf_file.read(tmp_path / 'x.gguf')[1]['t0']
  read, dequantise = [], gguf.dequantize

  def count(rows, kind):
    read.append(len(rows))
    return dequantise(rows, kind)

  monkeypatch.setattr(gguf, 'dequantize', count)
  assert tensor.read_slice((slice(2, 5), slice(0, 32))).shape == (3, 32)
  assert read == [3]


def test_a_vector_is_sliced(tmp_path):
  write(tmp_path / 'x.gguf')
  norm = gguf_file.read(tmp_path / 'x.gguf')[1]['output_norm.weight']
  np.testing.assert_array_equal(norm.read_slice((slice(3, 7),)), norm.read()[3:7])


def test_metadata_is_read_as_by_the_gguf_package(tmp_path):
  write(tmp_path / 'x.gguf')
  actual, _ = gguf_file.read(tmp_path / 'x.gguf')
  fields = gguf.GGUFReader(tmp_path / 'x.gguf').fields
  expected = {
    key: field.contents()
    for key, field in fields.items()
    if not key.startswith('GGUF.')
  }
  assert actual == expected | {'llama.attention.layer_norm_rms_epsilon': 1e-5}


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
  'unknown blocks': header('t', ('IQIQ', 1, 32, 99, 0), tensors=1),
  'many tensors': header(tensors=2**17),
  'many entries': header(entries=2**13),
  'long array': header('a', ('IIQ', 9, 7, 2**23), entries=1),
  'no array': header('a', ('IIQ', 9, 8, 2**24), entries=1),
  'no alignment': header('general.alignment', ('II', 4, 0), entries=1),
}


@pytest.mark.parametrize('name', MALFORMED)
def test_a_malformed_header_is_an_error_with_the_path(name, tmp_path):
  path = tmp_path / 'x.gguf'
  path.write_bytes(MALFORMED[name])
  with pytest.raises(ValueError, match='x.gguf: '):
    gguf_file.read(path)


@pytest.mark.parametrize('kind', [Kind.Q8_K, Kind.I32, Kind.F64], ids=lambda k: k.name)
def test_an_unsupported_type_is_named(kind, tmp_path):
  (tmp_path / 'x.gguf').write_bytes(header('t', ('IQIQ', 1, 256, kind, 0), tensors=1))
  with pytest.raises(ValueError, match=f'x.gguf: tensor t has the type {kind.name},'):
    gguf_file.read(tmp_path / 'x.gguf')


def test_a_long_string_is_refused_before_it_is_read(tmp_path):
  with (tmp_path / 'x.gguf').open('wb') as file:
    file.write(header('a', ('IQ', 8, 2**27), entries=1))
    file.truncate(2**28)  # sparse
  with pytest.raises(ValueError, match='the bytes of a: 134217728 exceeds the limit'):
    gguf_file.read(tmp_path / 'x.gguf')


@pytest.mark.parametrize('value', [('IQ', 8, 90), ('IIQ', 9, 0, 90)])
def test_long_metadata_are_refused_before_they_are_read(value, tmp_path, monkeypatch):
  monkeypatch.setattr(gguf_file, 'MAX_METADATA_BYTES', 100)
  with (tmp_path / 'x.gguf').open('wb') as file:
    file.write(header('a', value, entries=1))
    file.truncate(2**33)  # sparse
  with pytest.raises(ValueError, match='x.gguf: bytes of the header: .* limit of 100'):
    gguf_file.read(tmp_path / 'x.gguf')


def test_a_part_of_a_model_is_refused(tmp_path):
  data = header('split.count', ('IH', 2, 3), entries=1)
  (tmp_path / 'x.gguf').write_bytes(data)
  with pytest.raises(ValueError, match='x.gguf: split.count is 3: .*--merge'):
    gguf_file.read(tmp_path / 'x.gguf')


@pytest.fixture(scope='module')
def valid_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('valid') / 'x.gguf'
  return write(path).read_bytes()


def test_every_truncation_is_an_error_with_the_path(valid_file, tmp_path):
  path = tmp_path / 'x.gguf'
  for length in range(0, len(valid_file), 4999):
    path.write_bytes(valid_file[:length])
    with pytest.raises(ValueError, match='x.gguf: '):
      read_llama(path)


@hypothesis.given(
  flips=st.dictionaries(st.integers(0, 3200), st.binary(min_size=1, max_size=1))
)
@hypothesis.settings(max_examples=25)
def test_a_damaged_header_loads_or_names_the_path(flips, valid_file, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / 'damaged.gguf'
  data = bytearray(valid_file)
  for position, byte in flips.items():
    data[position : position + 1] = byte
  path.write_bytes(data)
  try:
    source = open_llama(path)
    sizes = llama_axis_sizes(source.config)
    table.check_tensors(source.rows, source.tensors, sizes, str(path))
  except ValueError as error:
    assert str(path) in str(error)
