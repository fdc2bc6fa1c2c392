# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax.weights import safetensors
from acl_jax.weights.halve import halve
from acl_jax.weights.tensor import Tensor


def write(path, **arrays):
  tensors = [(name, Tensor.from_array(array)) for name, array in arrays.items()]
  safetensors.write_file(path, tensors, {'adapter': '{}'})


def test_floats_are_halved_and_the_rest_stays(tmp_path):
  rng = np.random.default_rng(0)
  x, ids = rng.normal(size=(3, 5)).astype(np.float32), np.arange(7, dtype=np.int32)
  write(tmp_path / 'a', x=x, ids=ids)
  halve(tmp_path / 'a', tmp_path / 'new/b')
  safetensors.verify_checksum(tmp_path / 'new/b')
  tensors = safetensors.read_file(tmp_path / 'new/b', dtypes=safetensors.DTYPES)
  assert tensors['x'].dtype == np.float16
  np.testing.assert_array_equal(tensors['x'].read(), x.astype(np.float16))
  np.testing.assert_array_equal(tensors['ids'].read(), ids)
  assert safetensors.read_metadata(tmp_path / 'new/b')['adapter'] == '{}'


def test_values_beyond_float16_are_refused(tmp_path):
  write(tmp_path / 'a', big=np.asarray([7e4], np.float32))
  with pytest.raises(ValueError, match='big .*not finite in float16'):
    halve(tmp_path / 'a', tmp_path / 'b')
  assert not (tmp_path / 'b').exists()


def test_a_damaged_file_is_refused(tmp_path):
  write(tmp_path / 'a', x=np.ones(9, np.float32))
  content = bytearray((tmp_path / 'a').read_bytes())
  content[-2] ^= 1
  (tmp_path / 'a').write_bytes(content)
  with pytest.raises(ValueError, match='has changed since it was saved'):
    halve(tmp_path / 'a', tmp_path / 'b')
