# SPDX-License-Identifier: Apache-2.0
import einops
import numpy as np
import pytest

from acl_jax.weights.table import _read_parameter_slice, tensor_shape
from acl_jax.weights.tensor import Tensor

SIZES = dict(d=6, n=4, k=2, h=3, i=2, c=2, f=5, u=1, g=2, e=7)


def slices(*pairs):
  return tuple(slice(*pair) for pair in pairs)


@pytest.mark.parametrize(
  'layout, index, num_read',
  [
    ('d -> d', [(2, 5)], 3),
    ('f d -> d f', [(2, 4), (0, 5)], 10),
    ('f d -> d f', [(0, 6), (1, 3)], 12),
    ('(n h) d -> d n h', [(0, 6), (2, 4), (0, 3)], 36),
    ('(n h) d -> d n h', [(3, 6), (2, 3), (0, 3)], 9),
    ('d (n h) -> n h d', [(1, 2), (0, 3), (0, 2)], 6),
    ('(n i c) d -> d n (c i)', [(0, 3), (1, 2), (0, 4)], 12),
    # A letter that is not the first of its axis is sliced after reading.
    ('(n h) d -> d n h', [(0, 6), (0, 4), (1, 2)], 72),
    ('(n i c) d -> d n (c i)', [(0, 6), (1, 2), (1, 3)], 24),
    ('(g e) d u -> d (u g e)', [(2, 4), (3, 9)], 28),
  ],
)
def test_a_slice_is_that_of_the_whole_and_no_more_is_read(layout, index, num_read):
  shape, counts = tensor_shape(layout, SIZES), []
  array = np.arange(np.prod(shape)).reshape(shape)

  def read_slice(index):
    counts.append(array[index].size)
    return array[index]

  letters = {letter: SIZES[letter] for letter in set(layout) & SIZES.keys()}
  index = slices(*index)
  expected = einops.rearrange(array, layout, **letters)[index]
  whole = Tensor(shape, lambda: array)
  for tensor in (whole._replace(slice_reader=read_slice), whole):
    actual = _read_parameter_slice(tensor, layout, index, SIZES)
    np.testing.assert_array_equal(actual, expected)
  assert sum(counts) in (num_read, 0) and (counts or num_read == array.size)
