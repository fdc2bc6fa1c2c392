# SPDX-License-Identifier: Apache-2.0
"""What the Cloud calls a slice."""

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
def test_machines(name, hosts, machine):
  tpu = parse_slice(name)
  assert (tpus.hosts(tpu), tpus.machine_type(tpu)) == (hosts, machine)


@pytest.mark.parametrize('generation', GENERATIONS, ids=lambda g: g.name)
def test_every_generation_has_hosts_for_all_chips(generation):
  assert tpus.OFFERS[generation.name]
  for topology in generation.topologies:
    tpu = Slice(generation, topology)
    assert tpus.hosts(tpu) * tpus.chips_per_host(tpu) == tpu.chips
