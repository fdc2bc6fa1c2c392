# SPDX-License-Identifier: Apache-2.0
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_pipeline.container import RecordError, pack, unpack

json_values = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
  max_leaves=5,
)
dtypes = st.one_of(
  hnp.integer_dtypes(endianness='='),
  hnp.unsigned_integer_dtypes(endianness='='),
  hnp.floating_dtypes(endianness='=', sizes=(16, 32, 64)),
  hnp.boolean_dtypes(),
)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
arrays = st.dictionaries(st.text(), hnp.arrays(dtypes, shapes), max_size=3)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), json_values, max_size=3), arrays)
def test_round_trip(header, arrays):
  record = pack(header, arrays)
  assert record == pack(header, arrays)
  got_header, got = unpack(record)
  assert got_header == header and list(got) == list(arrays)
  for name, array in arrays.items():
    assert got[name].dtype == array.dtype
    np.testing.assert_array_equal(got[name], array)


def test_memory_layout_does_not_matter():
  array = np.arange(6, dtype=np.int16).reshape(2, 3)
  record = pack({}, {'x': array})
  assert pack({}, {'x': np.asfortranarray(array)}) == record
  assert pack({}, {'x': array.astype('>i2')}) == record


def test_unsupported_values_are_rejected():
  with pytest.raises(ValueError, match="array 'x': dtype complex64"):
    pack({}, {'x': np.zeros(2, np.complex64)})
  with pytest.raises(ValueError):
    pack({'x': float('nan')}, {})


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_rejected(record):
  with pytest.raises(RecordError):
    unpack(record)


@settings(max_examples=50)
@given(
  json_values | st.fixed_dictionaries({'header': json_values, 'arrays': json_values})
)
def test_arbitrary_json_raises_only_record_error(content):
  text = json.dumps(content).encode()
  try:
    unpack(b'ACLR' + struct.pack('<I', len(text)) + text)
  except RecordError:
    pass


@given(st.data())
def test_damaged_record_raises_only_record_error(data):
  whole = bytearray(pack({'id': 'a'}, {'x': np.arange(3.0), 'y': np.zeros((2, 0))}))
  position = data.draw(st.integers(0, len(whole) - 1))
  whole[position] = data.draw(st.integers(0, 255))
  try:
    unpack(bytes(whole))
  except RecordError:
    pass
  with pytest.raises(RecordError):
    unpack(bytes(whole[:position]))


@pytest.mark.parametrize(
  'arrays, message',
  [
    ([['x', 'int16', [1 << 62, 1 << 62]]], 'ends past'),
    ([['x', 'int16', [0, 1 << 70]]], 'ends past'),
    ([['x', 'int16', [-1]]], 'malformed'),
    ([['x', 'int16', [True]]], 'malformed'),
    ([['x', 'object', []]], 'malformed'),
    ([['x', 'int16', [0]], ['x', 'int16', [0]]], 'twice'),
    ([['x', 'int16', [0] * 9]], 'malformed'),
    ('[' * 100_000, 'not JSON'),
  ],
)
def test_malicious_layouts_are_rejected(arrays, message):
  text = json.dumps({'header': {}, 'arrays': arrays})
  if message == 'not JSON':  # nested deeper than Python recurses
    text = arrays
  with pytest.raises(RecordError, match=message):
    unpack(b'ACLR' + struct.pack('<I', len(text)) + text.encode())


def test_trailing_bytes_are_rejected():
  with pytest.raises(RecordError, match='1 bytes follow'):
    unpack(pack({}, {}) + b'\0')
