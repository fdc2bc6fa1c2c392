# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import random_streams
from data_pipeline.random_streams import first_uniforms

seeds = st.lists(st.integers(0, 2**70), max_size=5)
last = st.lists(st.integers(0, 2**32 - 1), max_size=7)


@settings(max_examples=12)
@given(seeds, last)
def test_they_are_the_first_numbers_of_numpys_generators(prefix, last):
  expected = [np.random.default_rng([*prefix, i]).random() for i in last]
  found = first_uniforms(prefix, np.asarray(last, np.int64))
  np.testing.assert_array_equal(found, expected)


def test_blocks_are_joined(monkeypatch):
  expected = first_uniforms([3], np.arange(11))
  monkeypatch.setattr(random_streams, 'BLOCK', 4)
  np.testing.assert_array_equal(first_uniforms([3], np.arange(11)), expected)


def test_seeds_out_of_range_are_refused():
  with pytest.raises(ValueError, match=r'from -1 to 4; '):
    first_uniforms([], np.asarray([4, -1]))
  with pytest.raises(ValueError, match=r'seed is -2'):
    first_uniforms([-2], np.arange(3))
