# SPDX-License-Identifier: Apache-2.0
"""Slices are known by the names that their users write."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.parallel import topologies
from acl_jax.parallel.topologies import GENERATIONS, parse


@pytest.mark.parametrize(
  'name, slice, chips',
  [
    ('v5litepod-16', 'v5e:4x4', 16),
    ('v5e-16', 'v5e:4x4', 16),
    ('v5e:4x8', 'v5e:4x8', 32),
    ('V6E-256', 'v6e:16x16', 256),
    ('v4-8', 'v4:2x2x1', 4),
    ('v4-32', 'v4:2x2x4', 16),
    ('v5p-32', 'v5p:2x2x4', 16),
    ('v5p-128', 'v5p:4x4x4', 64),
    ('v5p:4x4x8', 'v5p:4x4x8', 128),
    ('tpu7x-16', 'tpu7x:2x2x2', 8),
    ('v7x-8', 'tpu7x:2x2x1', 4),
  ],
)
def test_names_as_users_write_them(name, slice, chips):
  found = parse(name)
  assert (str(found), found.chips) == (slice, chips)
  assert parse(str(found)) == found


@pytest.mark.parametrize(
  'name, message',
  [
    ('v5e', "topology 'v5e': write a type such as v5e-16, or a shape such as v5e:4x4"),
    ('v9-16', "no generation 'v9'; known: v4, v5e, v5p, v6e, tpu7x"),
    ('v5e-12', "'v5e-12' is not a rectangle; sizes of v5e: 1, 2, 4, 8, 16"),
    ('v5e:4x4x4', 'has 3 sides; a slice of v5e is a rectangle of 2, such as v5e:2x4'),
    ('v5p:4x4', 'has 2 sides; a slice of v5p is a box of 3, such as v5p:2x4x4'),
    ('v5e:16x32', 'a slice is v5e:16x16 at most'),
    ('v5e:0x4', 'a slice is v5e:16x16 at most'),
  ],
)
def test_other_names_are_refused_in_one_sentence(name, message):
  with pytest.raises(ValueError) as caught:
    parse(name)
  assert message in str(caught.value)
  assert '\n' not in str(caught.value)


@given(st.text(max_size=20) | st.from_regex(r'(v|tpu)[4-7][epx]?[-:][0-9x]{1,9}'))
def test_any_name_is_a_slice_or_a_sentence(name):
  try:
    found = parse(name)
  except ValueError as error:
    assert len(str(error).splitlines()) == 1
  else:
    assert found.chips == math.prod(found.shape) > 0


@pytest.mark.parametrize('name', topologies.ALL)
def test_libtpu_knows_a_slice_of_every_generation(name):
  slice = parse(name)
  devices = slice.devices()
  assert len(devices) == slice.chips * slice.generation.devices
  assert {device.platform for device in devices} == {'tpu'}


def test_all_generations_are_planned_for():
  assert [parse(name).generation for name in topologies.ALL] == list(GENERATIONS)


def test_a_slice_that_libtpu_does_not_know():
  with pytest.raises(ValueError, match='v5e:3x5: libtpu knows no such slice'):
    parse('v5e:3x5').devices()
