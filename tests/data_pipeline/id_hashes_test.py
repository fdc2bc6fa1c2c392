# SPDX-License-Identifier: Apache-2.0
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import id_hashes
from data_pipeline.id_hashes import find_shared, find_sorted

numbers = st.lists(st.integers(0, 40) | st.integers(0, 2**64 - 1), max_size=30)


@settings(max_examples=40)
@given(numbers, numbers)
def test_queries_find_their_first_position(queries, keys):
  keys = sorted(keys)
  expected = [keys.index(query) if query in keys else -1 for query in queries]
  found = find_sorted(np.asarray(queries, np.uint64), np.asarray(keys, np.uint64))
  assert found.tolist() == expected


groups = st.lists(
  st.sets(st.sampled_from('abcdefghij'), max_size=4), min_size=1, max_size=4
)


@settings(max_examples=40)
@given(groups, st.integers(1, 64))
def test_ids_in_two_groups_are_found_whatever_the_hash(groups, bits):
  groups = [sorted(group) for group in groups]
  hashes = [id_hashes.hash_ids(group) >> np.uint64(64 - bits) for group in groups]
  found = find_shared(hashes, lambda group, i: groups[group][i])
  shared = {
    (i, j, id)
    for j, later in enumerate(groups)
    for i, earlier in enumerate(groups[:j])
    for id in {*earlier} & {*later}
  }
  assert found in shared if shared else found is None
