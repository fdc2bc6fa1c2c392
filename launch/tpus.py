# SPDX-License-Identifier: Apache-2.0
"""What Google Kubernetes Engine and the Cloud TPU API call the slices of TPUs.

Sources: docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, and "TPU
software versions" of docs.cloud.google.com/tpu/docs.
"""

from typing import NamedTuple

from acl_jax.tpu.slices import Slice

HOST_CHIPS = 4


class Offer(NamedTuple):
  """How a generation is to be had.

  accelerator, machine: node selector and machine family of GKE, None if it has none.
  runtime: software version of TPU VMs, None if the Cloud TPU API serves none.
  """

  accelerator: str | None
  machine: str | None
  runtime: str | None


OFFERS = {
  'v2': Offer(None, None, 'tpu-ubuntu2204-base'),
  'v3': Offer(None, None, 'tpu-ubuntu2204-base'),
  'v4': Offer('tpu-v4-podslice', 'ct4p-hightpu', 'tpu-ubuntu2204-base'),
  'v5e': Offer('tpu-v5-lite-podslice', 'ct5lp-hightpu', 'v2-alpha-tpuv5-lite'),
  'v5p': Offer('tpu-v5p-slice', 'ct5p-hightpu', 'v2-alpha-tpuv5'),
  'v6e': Offer('tpu-v6e-slice', 'ct6e-standard', 'v2-alpha-tpuv6e'),
  'tpu7x': Offer('tpu7x', 'tpu7x-standard', None),
}


def offer(tpu: Slice) -> Offer:
  """Of the generation of a slice."""
  return OFFERS[tpu.generation.name]


def chips_per_host(tpu: Slice) -> int:
  """Of a machine of GKE's node pool."""
  return min(tpu.chips, HOST_CHIPS)


def hosts(tpu: Slice) -> int:
  """Machines of GKE; a TPU VM of v5e may have eight chips instead."""
  return tpu.chips // chips_per_host(tpu)


def machine_type(tpu: Slice) -> str:
  """Of GKE's node pool."""
  return f'{offer(tpu).machine}-{chips_per_host(tpu)}t'
