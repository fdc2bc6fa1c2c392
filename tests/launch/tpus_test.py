# SPDX-License-Identifier: Apache-2.0
"""Hosts and machine types of slices."""

import pytest

from acl_jax.tpu.slices import GENERATIONS, Slice, parse_slice
from launch import tpus


@pytest.mark.parametrize(
  'name, hosts, machine',
  [
    ('v5litepod-16', 4, 'ct5lp-hightpu-4t'),
    ('v5e:1x1', 1, 'ct5lp-hightpu-1t'),
    ('v6e:4x8', 8, 'ct6e-standard-4t'),
    ('v4-32', 4, 'ct4p-hightpu-4t'),
    ('v5p-8', 1, 'ct5p-hightpu-4t'),
    ('v5p:4x4x12', 48, 'ct5p-hightpu-4t'),
    ('tpu7x-128', 16, 'tpu7x-standard-4t'),
    ('tpu7x:1x1x1', 1, 'tpu7x-standard-1t'),
  ],
)
def test_hosts_and_machine_types(name, hosts, machine):
  tpu = parse_slice(name)
  assert (tpus.num_hosts(tpu), tpus.machine_type(tpu)) == (hosts, machine)


@pytest.mark.parametrize('generation', GENERATIONS, ids=lambda g: g.name)
def test_the_hosts_of_every_slice_have_all_its_chips(generation):
  assert tpus.CLOUD_NAMES[generation.name]
  for topology in generation.topologies:
    tpu = Slice(generation, topology)
    assert tpus.num_hosts(tpu) * tpus.chips_per_host(tpu) == tpu.chips
