# SPDX-License-Identifier: Apache-2.0
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_pipeline import columns as columns_module
from data_pipeline.columns import DTYPES, ColumnsError, open_columns, write_columns

KEY = {'version': 1, 'of': 'x'}


@st.composite
def tables(draw):
  """Columns of several dtypes and lengths, each in parts."""
  table = {}
  for i, dtype in enumerate(draw(st.lists(st.sampled_from(DTYPES), max_size=4))):
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=3))
    kind = np.dtype(dtype)
    draws = [draw(arrays.arrays(kind, n, elements=None)) for n in sizes]
    table[f'c{i}'] = [np.nan_to_num(array) for array in draws]
  return table


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(columns_module, 'BLOCK_BYTES', 64)


@pytest.fixture(scope='module')
def folder():
  with tempfile.TemporaryDirectory() as folder:
    yield Path(folder)


def whole(table):
  return {name: np.concatenate(parts) for name, parts in table.items()}


@settings(max_examples=20)
@given(tables())
def test_columns_are_read_as_they_were_written(folder, table):
  write_columns(folder / 'a', table, KEY, {'note': 'ä'})
  read = open_columns(folder / 'a', KEY)
  assert read.facts == {'note': 'ä'} and [*read] == [*table]
  for name, expected in whole(table).items():
    for copy in (read, pickle.loads(pickle.dumps(read))):
      np.testing.assert_array_equal(copy[name], expected, strict=True)
      assert not copy[name].flags.writeable
    np.testing.assert_array_equal(read.read(name, 3, 9), expected[3:9])
  write_columns(folder / 'b', {name: [a] for name, a in whole(table).items()}, KEY)
  write_columns(folder / 'a', table, KEY)
  assert (folder / 'a').read_bytes() == (folder / 'b').read_bytes()


@settings(max_examples=60)
@given(tables(), st.data())
def test_damage_never_gives_wrong_values(folder, table, data):
  """A flipped bit or a cut-off end is an error, or is not in what is read."""
  path = folder / 'damaged'
  write_columns(path, table, KEY)
  content = bytearray(path.read_bytes())
  position = data.draw(st.integers(0, len(content) - 1))
  if data.draw(st.booleans()):
    content[position] ^= 1 << data.draw(st.integers(0, 7))
  else:
    del content[position:]
  path.write_bytes(content)
  read = {}
  with pytest.raises(ColumnsError, match=f'^{path}: '):
    columns = open_columns(path, KEY)
    read = {name: columns[name] for name in columns}
    if position >= len(content) or read.keys() == table.keys():
      for name, expected in whole(table).items():
        np.testing.assert_array_equal(read[name], expected)
      raise ColumnsError(f'{path}: the bit is in the padding between columns')


def test_a_part_is_read_without_the_rest(tmp_path):
  table = {'a': [np.arange(100)], 'b': [np.arange(7, dtype=np.uint8)]}
  write_columns(tmp_path / 'x', table, KEY)
  content = bytearray((tmp_path / 'x').read_bytes())
  content[content.index(np.int64(60).tobytes())] ^= 1
  (tmp_path / 'x').write_bytes(content)
  columns = open_columns(tmp_path / 'x')
  assert columns.read('a', 0, 50).tolist() == [*range(50)]
  assert columns['b'].tolist() == [*range(7)] and columns.size('a') == 100
  for _ in range(2):
    with pytest.raises(ColumnsError, match=r'damaged in block 7 of 14, .*\'a\''):
      columns.read('a', 59, 63)


def test_errors_name_the_file(tmp_path):
  with pytest.raises(ColumnsError, match=f'{tmp_path}/none: not found'):
    open_columns(tmp_path / 'none')
  (tmp_path / 'x').touch()
  with pytest.raises(ColumnsError, match='is empty'):
    open_columns(tmp_path / 'x')
  write_columns(tmp_path / 'x', {'a': [np.arange(3)]}, KEY)
  with pytest.raises(ColumnsError, match=r"x: was made from .*'x'.*, not from .*'y'"):
    open_columns(tmp_path / 'x', KEY | {'of': 'y'})
