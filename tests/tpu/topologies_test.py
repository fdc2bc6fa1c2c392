# SPDX-License-Identifier: Apache-2.0
"""The compiler has devices for the slices that are planned for."""

import pytest

from acl_jax.tpu.slices import Slice, parse_slice
from acl_jax.tpu.topologies import ALL, CHIPS, chip_of, topology_devices


@pytest.mark.parametrize('name', (*ALL, 'v5litepod-1', 'tpu7x:1x1x1'))
def test_libtpu_knows_a_slice_of_every_generation(name):
  slice = parse_slice(name)
  found = topology_devices(slice)
  assert len(found) == slice.chips * chip_of(slice).devices
  assert {device.platform for device in found} == {'tpu'}


def test_all_generations_are_planned_for():
  assert [parse_slice(name).generation.name for name in ALL] == list(CHIPS)


def test_a_generation_that_is_too_old():
  with pytest.raises(ValueError, match='v3:2x2: there are plans for v4, v5e, '):
    topology_devices(parse_slice('v3-8'))


def test_a_slice_that_libtpu_does_not_know():
  with pytest.raises(ValueError, match='v5e:3x5: libtpu knows no such slice'):
    topology_devices(Slice(parse_slice('v5e-4').generation, '3x5'))
