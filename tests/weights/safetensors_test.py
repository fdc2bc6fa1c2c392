# SPDX-License-Identifier: Apache-2.0
import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import save_file

from acl_jax.weights import safetensors
from acl_jax.weights.llama import load_llama, save_llama
from acl_jax.weights.tensor import Tensor
from tests import tiny_llama

TENSORS = {f't{i}': np.full((i + 1, 3), i, np.float32) for i in range(5)}


def tensors():
  return [(name, Tensor.from_array(array)) for name, array in TENSORS.items()]


def read(folder):
  return {name: tensor.read() for name, tensor in safetensors.read(folder).items()}


@pytest.fixture
def shards(tmp_path):
  safetensors.write(tmp_path, tensors(), limit=100)
  return tmp_path


@pytest.mark.parametrize('limit, files', [(1, 5), (100, 3), (10**6, 1)])
def test_a_round_trip(limit, files, tmp_path):
  safetensors.write(tmp_path, tensors(), limit=limit)
  assert len(list(tmp_path.glob('*.safetensors'))) == files
  np.testing.assert_equal(read(tmp_path), TENSORS)
  shapes = {name: tensor.shape for name, tensor in safetensors.read(tmp_path).items()}
  assert shapes == {name: tensor.shape for name, tensor in TENSORS.items()}


def test_a_missing_shard_is_named(shards):
  (shards / 'model-00002-of-00003.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match='model-00002-of-00003.safetensors'):
    read(shards)


@pytest.mark.parametrize('change', ['missing', 'too many', 'twice', 'name'])
def test_shards_without_an_index_must_be_complete(change, shards):
  (shards / 'model.safetensors.index.json').unlink()
  np.testing.assert_equal(read(shards), TENSORS)
  last, error = shards / 'model-00003-of-00003.safetensors', ValueError
  if change == 'missing':
    last.unlink()
    message, error = f'{last.name} is missing', FileNotFoundError
  elif change == 'too many':
    save_file({'t9': np.zeros(3)}, shards / 'model-00004-of-00003.safetensors')
    message = '4 shards, more than 3'
  elif change == 'twice':
    save_file({'t0': np.zeros(3)}, last)
    message = 't0 is in model-00001-of-00003.safetensors and in model-00003'
  else:
    last.rename(shards / 'model-0-of-x.safetensors')
    message = 'does not tell the number'
  with pytest.raises(error, match=message):
    read(shards)


def test_of_two_copies_the_index_says_which_counts(shards):
  index = shards / 'model.safetensors.index.json'
  names = json.loads(index.read_text())['weight_map']
  kept = {k: v for k, v in names.items() if v != 'model-00003-of-00003.safetensors'}
  weight_map = kept | {'t4': 'model-00003-of-00003.safetensors'}
  save_file(
    {'t0': np.ones(3), 't4': TENSORS['t4']},
    shards / 'model-00003-of-00003.safetensors',
  )
  index.write_text(json.dumps({'weight_map': weight_map}))
  np.testing.assert_equal(read(shards)['t0'], TENSORS['t0'])


def test_a_folder_without_weights_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='model.safetensors'):
    read(tmp_path)


@pytest.mark.parametrize(
  'weight_map, message',
  [
    (None, 'weight_map'),
    ([], 'weight_map'),
    ({'t0': 1}, 'weight_map'),
    ({'t0': '../model.safetensors'}, r"'\.\./model\.safetensors'"),
    ({'t0': 'model-00001-of-00003.safetensors'}, r'weight_map .*\bt1$'),
    ({'t9': 'model-00003-of-00003.safetensors'}, r'weight_map .*\bt4$'),
  ],
)
def test_a_wrong_index_is_refused(weight_map, message, shards):
  index = shards / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': weight_map}))
  with pytest.raises(ValueError, match=message):
    read(shards)


def test_an_unsupported_dtype_is_refused(tmp_path):
  save_file({'t': np.zeros(3, np.int8)}, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match=r'\bt\b.*\bI8\b'):
    read(tmp_path)


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('llama')
  save_llama(tiny_llama.build(), folder)
  return folder


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda t: t.pop('model.norm.weight'), r'model\.norm\.weight'),
    (lambda t: t.update(extra=np.zeros(1, 'f')), r'\bextra\b'),
    (
      lambda t: t.update({'lm_head.weight': np.zeros((24, 50), 'f')}),
      r'lm_head\.weight .*\(24, 50\).*\(50, 24\)',
    ),
  ],
)
def test_every_tensor_is_used_once_and_every_parameter_filled(
  change, message, model_folder, tmp_path
):
  tensors = read(model_folder)
  change(tensors)
  save_file(tensors, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_bytes((model_folder / 'config.json').read_bytes())
  with pytest.raises(ValueError, match=message):
    load_llama(tmp_path)


@hypothesis.given(
  cut=st.integers(0, 700), position=st.integers(0, 700), bits=st.integers(0, 255)
)
@hypothesis.settings(max_examples=100)
def test_a_damaged_file_loads_or_names_the_path(cut, position, bits, tmp_path_factory):
  folder = tmp_path_factory.mktemp('damaged')
  safetensors.write(folder, tensors())
  path = folder / 'model.safetensors'
  data = bytearray(path.read_bytes())
  if position < len(data):
    data[position] ^= bits
  path.write_bytes(data[: len(data) - cut])
  try:
    read(folder)
  except ValueError as error:
    assert str(path) in str(error)
