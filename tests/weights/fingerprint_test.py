# SPDX-License-Identifier: Apache-2.0
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax.weights.fingerprint import describe, parameters_sha256


def model(dtype):
  random = np.random.default_rng(0)
  return {
    'a': jnp.asarray(random.normal(size=(3, 5, 7)) * 50, dtype),
    'b': jnp.asarray(random.normal(size=(11,)) * 50, dtype),
  }


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
def test_every_bit_and_every_position_counts(dtype):
  original = model(dtype)
  description = describe(original)
  assert description['parameters'] == 3 * 5 * 7 + 11
  assert description['dtype'] == dtype
  assert describe(model(dtype)) == description
  a = np.asarray(original['a'])
  flipped = a.view(f'uint{8 * a.dtype.itemsize}').copy()
  flipped[2, 4, 6] ^= 1
  swapped = a.copy()
  swapped[0, 0, 0], swapped[2, 3, 1] = a[2, 3, 1], a[0, 0, 0]
  others = [
    {**original, 'a': jnp.asarray(flipped.view(a.dtype))},
    {**original, 'a': jnp.asarray(swapped)},
    {**original, 'a': jnp.asarray(a.reshape(5, 3, 7))},
    {'b': original['a'], 'a': original['b']},
    jax.tree.map(lambda x: jnp.asarray(-np.asarray(x)), original),
  ]
  digests = [describe(other)['sha256'] for other in others]
  assert len({*digests, description['sha256']}) == len(others) + 1


def test_every_number_of_4_bits_counts():
  values = np.arange(-7, 8)
  digests = [describe({'a': jnp.asarray(np.roll(values, i), 'int4')}) for i in range(3)]
  assert len({digest['sha256'] for digest in digests}) == 3


def test_parameters_sha256_hashes_the_bytes_in_state_order():
  class Module(nnx.Module):
    def __init__(self, b, a):
      self.b, self.a = nnx.Param(jnp.asarray(b)), nnx.Param(jnp.asarray(a))

  a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.int32)
  expected = hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest()
  assert parameters_sha256(Module(b, a)) == expected
