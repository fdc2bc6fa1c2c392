# SPDX-License-Identifier: Apache-2.0
import einops
import numpy as np
import pytest

from acl_jax.weights.table import Tensor, _read_part, foreign_shape

SIZES = dict(d=6, n=4, k=2, h=3, i=2, c=2, f=5, u=1, g=2, e=7)


def slices(*pairs):
  return tuple(slice(*pair) for pair in pairs)


@pytest.mark.parametrize(
  'layout, index, read',
  [
    ('d -> d', [(2, 5)], 3),
    ('f d -> d f', [(2, 4), (0, 5)], 10),
    ('f d -> d f', [(0, 6), (1, 3)], 12),
    ('(n h) d -> d n h', [(0, 6), (2, 4), (0, 3)], 36),
    ('(n h) d -> d n h', [(3, 6), (2, 3), (0, 3)], 9),
    ('d (n h) -> n h d', [(1, 2), (0, 3), (0, 2)], 6),
    ('(n i c) d -> d n (c i)', [(0, 3), (1, 2), (0, 4)], 12),
    # What is not first in its axis is cut after it was read.
    ('(n h) d -> d n h', [(0, 6), (0, 4), (1, 2)], 72),
    ('(n i c) d -> d n (c i)', [(0, 6), (1, 2), (1, 3)], 24),
    ('(g e) d u -> d (u g e)', [(2, 4), (3, 9)], 28),
  ],
)
def test_a_part_is_that_of_the_whole_and_no_more_is_read(layout, index, read):
  shape, count = foreign_shape(layout, SIZES), []
  theirs = np.arange(np.prod(shape)).reshape(shape)

  def part(index):
    count.append(theirs[index].size)
    return theirs[index]

  letters = {letter: SIZES[letter] for letter in set(layout) & SIZES.keys()}
  ours, index = einops.rearrange(theirs, layout, **letters), slices(*index)
  whole = Tensor(shape, lambda: theirs)
  for tensor in (whole._replace(read_part=part), whole):
    np.testing.assert_array_equal(_read_part(tensor, layout, index, SIZES), ours[index])
  assert sum(count) in (read, 0) and (count or read == theirs.size)
