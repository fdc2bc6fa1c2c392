# SPDX-License-Identifier: Apache-2.0
"""libtpu has devices for every slice that can be planned for."""

import pytest

from acl_jax.tpu.slices import Slice, parse_slice
from acl_jax.tpu.topologies import CHIPS, DEFAULT_SLICES, chip_for, topology_devices


@pytest.mark.full
@pytest.mark.parametrize('name', (*DEFAULT_SLICES, 'v5litepod-1', 'tpu7x:1x1x1'))
def test_libtpu_knows_a_slice_of_every_generation(name):
  slice = parse_slice(name)
  devices = topology_devices(slice)
  assert len(devices) == slice.chips * chip_for(slice).num_devices
  assert {device.platform for device in devices} == {'tpu'}


def test_every_generation_has_a_default_slice():
  assert [parse_slice(name).generation.name for name in DEFAULT_SLICES] == list(CHIPS)


@pytest.mark.full
def test_generations_before_v4_are_refused():
  with pytest.raises(ValueError, match='v3:2x2.* v4, v5e, '):
    topology_devices(parse_slice('v3-8'))


@pytest.mark.full
def test_a_slice_unknown_to_libtpu_is_refused():
  with pytest.raises(ValueError, match='v5e:3x5.*libtpu'):
    topology_devices(Slice(parse_slice('v5e-4').generation, '3x5'))
