# SPDX-License-Identifier: Apache-2.0
import collections
import io
import os
import pickle
import zipfile

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from acl_jax.weights import torch_file

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read(path):
  return {name: tensor.read() for name, tensor in torch_file.read(path).items()}


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_tensors_that_torch_saves_are_read(dtype, tmp_path):
  base = torch.arange(24).to(dtype).reshape(4, 6)
  saved = {
    'plain': base,
    'transposed': base.T,
    'slice': base[1:, ::2],
    'scalar': base[2, 3],
    'empty': base[:0],
    'parameter': torch.nn.Parameter(base.clone()),
  }
  torch.save(saved, tmp_path / 'x.pth')
  for name, array in read(tmp_path / 'x.pth').items():
    expected = saved.pop(name).detach()
    assert array.shape == expected.shape
    assert array.itemsize == expected.itemsize
    np.testing.assert_array_equal(array.astype('d'), expected.double())
  assert not saved


def test_a_state_dict_is_read(tmp_path):
  module = torch.nn.Linear(2, 3)
  torch.save(module.state_dict(), tmp_path / 'x.pth')
  np.testing.assert_array_equal(read(tmp_path / 'x.pth')['bias'], module.bias.detach())


def write(path, data, members=()):
  """Write a zip like torch.save, with any pickle in it."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('x/data.pkl', data)
    for name, content in members:
      archive.writestr(f'x/{name}', content)


class Call:
  """An object whose pickle calls a function."""

  def __init__(self, function, *arguments):
    self.function, self.arguments = function, arguments

  def __reduce__(self):
    return self.function, self.arguments


@pytest.mark.parametrize(
  'function', [os.system, eval, getattr, torch.load, torch.storage._load_from_bytes]
)
def test_a_pickle_that_calls_another_function_is_refused(function, tmp_path):
  path = tmp_path / 'x.pth'
  marker = tmp_path / 'called'
  call = Call(function, f'touch {marker}')
  write(path, pickle.dumps({'a': call}, protocol=2))
  with pytest.raises(ValueError, match=rf'x\.pth.*{function.__name__}'):
    torch_file.read(path)
  assert not marker.exists()


def test_a_pickle_of_a_later_protocol_is_refused(tmp_path):
  write(tmp_path / 'x.pth', pickle.dumps(collections.OrderedDict(), protocol=4))
  with pytest.raises(ValueError, match=r'x\.pth.*\b[A-Z_]{4,}\b'):
    torch_file.read(tmp_path / 'x.pth')


def tensor_pickle(storage=('storage', 6), offset=0, shape=(2, 3), strides=(3, 1)):
  """Build the pickle of a dictionary with one tensor, which may be invalid."""
  name, size = storage
  number = lambda n: pickle.dumps(n, protocol=2)[2:-1]  # noqa: E731
  # fmt: off
  return b''.join((
    b'\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((',
    number(name), b'ctorch\nFloatStorage\n', number('0'), number('cpu'), number(size),
    b'tQ', number(offset), number(shape), number(strides),
    b'\x89ccollections\nOrderedDict\n)RtRs.',
  ))
  # fmt: on


def test_the_default_tensor_pickle_is_valid(tmp_path):
  write(tmp_path / 'x.pth', tensor_pickle(), [('data/0', bytes(24))])
  assert read(tmp_path / 'x.pth')['a'].shape == (2, 3)


@pytest.mark.parametrize(
  'change',
  [
    {'storage': ('storage', 5)},
    {'storage': ('storage', 7)},
    {'storage': ('storage', -1)},
    {'offset': 1},
    {'offset': -1},
    {'shape': (2, -3)},
    {'shape': (2, 4)},
    {'shape': (10**18, 10**18), 'strides': (0, 0)},
    {'shape': (2, 3, 1)},
    {'shape': ('2', 3)},
    {'strides': (3, 2)},
    {'strides': (-3, 1)},
  ],
  ids=str,
)
def test_a_tensor_outside_its_storage_is_refused(change, tmp_path):
  write(tmp_path / 'x.pth', tensor_pickle(**change), [('data/0', bytes(24))])
  with pytest.raises(ValueError, match='x.pth'):
    torch_file.read(tmp_path / 'x.pth')


@pytest.mark.parametrize(
  'data',
  [b'', b'.', b'}.', b'\x80\x02}(.', b'\x80\x02}', b')tR.', b'}q', b'(0u.', b's.'],
)
def test_a_malformed_pickle_is_refused_or_empty(data, tmp_path):
  write(tmp_path / 'x.pth', data)
  try:
    assert torch_file.read(tmp_path / 'x.pth') == {}
  except ValueError as error:
    assert 'x.pth' in str(error)


def test_a_missing_malformed_or_compressed_file_is_refused(tmp_path):
  path = tmp_path / 'x.pth'
  with pytest.raises(FileNotFoundError, match='x.pth'):
    torch_file.read(path)
  path.write_bytes(b'not a zip')
  with pytest.raises(ValueError, match='x.pth'):
    torch_file.read(path)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('x/data.pkl', tensor_pickle())
  with pytest.raises(ValueError, match=r'x/data\.pkl.*compressed'):
    torch_file.read(path)


def saved_by_torch():
  file = io.BytesIO()
  torch.save({'a': torch.ones(2, 3), 'b': torch.zeros(4)}, file)
  return file.getvalue()


VALID = saved_by_torch()


@hypothesis.given(
  cut=st.integers(0, 100),
  flips=st.dictionaries(
    st.integers(0, 1500), st.binary(min_size=1, max_size=1), max_size=4
  ),
)
@hypothesis.settings(max_examples=150)
def test_a_damaged_file_loads_or_names_the_path(cut, flips, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / 'damaged.pth'
  data = bytearray(VALID)
  for position, byte in flips.items():
    if position < len(data):
      data[position : position + 1] = byte
  path.write_bytes(data[: len(data) - cut])
  try:
    read(path)
  except ValueError as error:
    assert str(path) in str(error)
