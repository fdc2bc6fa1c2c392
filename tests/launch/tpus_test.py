# SPDX-License-Identifier: Apache-2.0
"""Names of TPUs, and the numbers that follow from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import tpus


@pytest.mark.parametrize(
  'name, topology, chips, hosts, machine, accelerator_type',
  [
    ('v5litepod-16', '4x4', 16, 4, 'ct5lp-hightpu-4t', 'v5litepod-16'),
    ('v5e-16', '4x4', 16, 4, 'ct5lp-hightpu-4t', 'v5litepod-16'),
    ('v5e:1x1', '1x1', 1, 1, 'ct5lp-hightpu-1t', 'v5litepod-1'),
    ('v6e:4x8', '4x8', 32, 8, 'ct6e-standard-4t', 'v6e-32'),
    ('v4-32', '2x2x4', 16, 4, 'ct4p-hightpu-4t', 'v4-32'),
    ('v5p-8', '2x2x1', 4, 1, 'ct5p-hightpu-4t', 'v5p-8'),
    ('v5p:4x4x12', '4x4x12', 192, 48, 'ct5p-hightpu-4t', None),
    ('tpu7x-128', '4x4x4', 64, 16, 'tpu7x-standard-4t', 'tpu7x-128'),
    ('tpu7x:1x1x1', '1x1x1', 1, 1, 'tpu7x-standard-1t', 'tpu7x-2'),
  ],
)
def test_names(name, topology, chips, hosts, machine, accelerator_type):
  tpu = tpus.parse(name)
  assert (tpu.topology, tpu.chips, tpu.hosts) == (topology, chips, hosts)
  assert (tpu.machine_type, tpu.accelerator_type) == (machine, accelerator_type)


@pytest.mark.parametrize('generation', tpus.GENERATIONS, ids=lambda g: g.name)
def test_every_usual_shape_has_a_name_that_reads_back(generation):
  slices = [tpus.Tpu(generation, topology) for topology in generation.topologies]
  assert [tpus.parse(str(tpu.accelerator_type)) for tpu in slices] == slices
  assert [tpus.parse(f'{generation.name}:{t.topology}') for t in slices] == slices
  assert all(tpu.hosts * tpu.chips_per_host == tpu.chips for tpu in slices)
  assert max(tpu.chips for tpu in slices) <= generation.most_chips


@pytest.mark.parametrize(
  'name, says',
  [
    ('h100', 'h100: a TPU is written like v5litepod-16 or v6e:4x4'),
    ('v9-8', 'v9-8: no generation of TPUs is called v9, only v2, v3, v4, v5e, v5p, '),
    ('v5e-12', 'v5e-12: the names for v5e are v5litepod-1, v5litepod-4, v5litepod-8, '),
    ('v5p-7', 'v5p-7: the names for v5p are v5p-8, v5p-16, '),
    ('v5e:3x5', 'v5e:3x5: the shapes of v5e are 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, '),
    ('v5e:2x2x4', 'v5e:2x2x4: the shapes of v5e are '),
    ('v5p:4x4', 'v5p:4x4: the shapes of v5p are '),
    ('v5p:4x4x6', 'and by multiples of 4 up to 8960 chips'),
    ('v5p:0x4x4', 'v5p:0x4x4: the shapes of v5p are '),
    ('v4:64x64x64', 'and by multiples of 4 up to 4096 chips'),
  ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(name, says):
  with pytest.raises(ValueError) as error:
    tpus.parse(name)
  assert says in str(error.value)
  assert '\n' not in str(error.value)


@given(st.from_regex(r'(v5e|v5p|tpu7x|v2)[-:][0-9x]{1,9}', fullmatch=True))
def test_any_name_is_a_slice_or_an_error(name):
  try:
    tpu = tpus.parse(name)
  except ValueError:
    return
  assert 1 <= tpu.chips <= tpu.generation.most_chips
