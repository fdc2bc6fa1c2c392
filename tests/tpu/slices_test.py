# SPDX-License-Identifier: Apache-2.0
"""Names of slices are parsed, and wrong ones are refused."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.tpu.slices import GENERATIONS, Slice, parse_slice


@pytest.mark.parametrize(
  'name, slice, chips, accelerator_type',
  [
    ('v5litepod-16', 'v5e:4x4', 16, 'v5litepod-16'),
    ('v5e-16', 'v5e:4x4', 16, 'v5litepod-16'),
    ('v5e:1x1', 'v5e:1x1', 1, 'v5litepod-1'),
    ('v6e:4x8', 'v6e:4x8', 32, 'v6e-32'),
    ('V6E-256', 'v6e:16x16', 256, 'v6e-256'),
    ('v4-8', 'v4:2x2x1', 4, 'v4-8'),
    ('v4-32', 'v4:2x2x4', 16, 'v4-32'),
    ('v5p-128', 'v5p:4x4x4', 64, 'v5p-128'),
    ('v5p:4x4x12', 'v5p:4x4x12', 192, None),
    ('tpu7x-16', 'tpu7x:2x2x2', 8, 'tpu7x-16'),
    ('tpu7x:1x1x1', 'tpu7x:1x1x1', 1, 'tpu7x-2'),
  ],
)
def test_names_are_parsed(name, slice, chips, accelerator_type):
  parsed = parse_slice(name)
  assert (str(parsed), parsed.chips) == (slice, chips)
  assert parsed.accelerator_type == accelerator_type
  assert parse_slice(str(parsed)) == parsed


@pytest.mark.parametrize('generation', GENERATIONS, ids=lambda g: g.name)
def test_the_name_of_every_listed_topology_parses(generation):
  slices = [Slice(generation, topology) for topology in generation.topologies]
  assert [parse_slice(str(slice.accelerator_type)) for slice in slices] == slices
  assert [parse_slice(str(slice)) for slice in slices] == slices
  assert max(slice.chips for slice in slices) <= generation.most_chips


@pytest.mark.parametrize(
  'name, names_and_numbers',
  [
    ('v5e', 'v5e: .* v5litepod-16 or v6e:4x4'),
    ('h100', 'h100: .* v5litepod-16 or v6e:4x4'),
    ('v9-8', 'v9-8: .* v9.* v2, v3, v4, v5e, v5p, '),
    ('v5e-12', 'v5e-12: .* v5e .*v5litepod-1, v5litepod-4, v5litepod-8, '),
    ('v5p-7', 'v5p-7: .* v5p .*v5p-8, v5p-16, '),
    ('v5e:3x5', 'v5e:3x5: .* v5e .*1x1, 2x2, 2x4, 4x4, 4x8, 8x8, '),
    ('v5e:16x32', 'v5e:16x32: .* v5e .*1x1, '),
    ('v5e:2x2x4', 'v5e:2x2x4: .* v5e .*1x1, '),
    ('v5p:4x4', 'v5p:4x4: .* v5p .*2x2x1, '),
    ('v5p:4x4x6', 'v5p:4x4x6: .* 4 .*8960 chips'),
    ('v5p:0x4x4', 'v5p:0x4x4: .* v5p .*2x2x1, '),
    ('v4:64x64x64', 'v4:64x64x64: .* 4 .*4096 chips'),
  ],
)
def test_a_wrong_name_is_refused_in_one_line(name, names_and_numbers):
  with pytest.raises(ValueError, match=names_and_numbers) as error:
    parse_slice(name)
  assert '\n' not in str(error.value)


@given(st.text(max_size=20) | st.from_regex(r'(v|tpu)[2-7][epx]?[-:][0-9x]{1,9}'))
def test_any_name_is_parsed_or_refused_in_one_line(name):
  try:
    slice = parse_slice(name)
  except ValueError as error:
    assert '\n' not in str(error).removeprefix(name)
  else:
    assert 1 <= slice.chips <= slice.generation.most_chips


@pytest.mark.full
def test_the_launcher_parses_names_without_importing_jax():
  program = 'import sys, launch.xm; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', program], check=True)
