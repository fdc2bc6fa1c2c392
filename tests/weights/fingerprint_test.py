# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.weights.fingerprint import describe


def model(dtype):
  random = np.random.default_rng(0)
  return {
    'a': jnp.asarray(random.normal(size=(3, 5, 7)) * 50, dtype),
    'b': jnp.asarray(random.normal(size=(11,)) * 50, dtype),
  }


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
def test_any_bit_and_any_place_counts(dtype):
  original = model(dtype)
  name = describe(original)
  assert name['parameters'] == 3 * 5 * 7 + 11 and name['dtype'] == dtype
  assert describe(model(dtype)) == name
  a = original['a']
  wide = f'uint{8 * a.dtype.itemsize}'
  flipped = np.asarray(a).view(wide).copy()
  flipped[2, 4, 6] ^= 1
  others = [
    {**original, 'a': jnp.asarray(flipped.view(a.dtype))},
    {**original, 'a': a.at[0, 0, 0].set(a[2, 3, 1]).at[2, 3, 1].set(a[0, 0, 0])},
    {**original, 'a': a.reshape(5, 3, 7)},
    {'b': a, 'a': original['b']},
    jax.tree.map(lambda x: -x, original),
  ]
  names = [describe(other)['sha256'] for other in others]
  assert len({*names, name['sha256']}) == len(others) + 1
