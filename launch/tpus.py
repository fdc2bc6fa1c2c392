# SPDX-License-Identifier: Apache-2.0
"""Names of TPU slices in Google Kubernetes Engine (GKE) and in the Cloud TPU API.

Sources: docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, and "TPU
software versions" of docs.cloud.google.com/tpu/docs.
"""

from typing import NamedTuple

from acl_jax.tpu.slices import Slice

MAX_CHIPS_PER_HOST = 4


class CloudNames(NamedTuple):
  """The Cloud's names for a generation.

  Attributes:
    accelerator: Node selector of GKE; None if GKE does not offer the generation.
    machine: Machine family of GKE; None likewise.
    runtime: Software version of TPU VMs; None if the Cloud TPU API does not serve them.
  """

  accelerator: str | None
  machine: str | None
  runtime: str | None


CLOUD_NAMES = {
  'v2': CloudNames(None, None, 'tpu-ubuntu2204-base'),
  'v3': CloudNames(None, None, 'tpu-ubuntu2204-base'),
  'v4': CloudNames('tpu-v4-podslice', 'ct4p-hightpu', 'tpu-ubuntu2204-base'),
  'v5e': CloudNames('tpu-v5-lite-podslice', 'ct5lp-hightpu', 'v2-alpha-tpuv5-lite'),
  'v5p': CloudNames('tpu-v5p-slice', 'ct5p-hightpu', 'v2-alpha-tpuv5'),
  'v6e': CloudNames('tpu-v6e-slice', 'ct6e-standard', 'v2-alpha-tpuv6e'),
  'tpu7x': CloudNames('tpu7x', 'tpu7x-standard', None),
}


def cloud_names(tpu: Slice) -> CloudNames:
  """Return the names for the generation of a slice."""
  return CLOUD_NAMES[tpu.generation.name]


def chips_per_host(tpu: Slice) -> int:
  """Return the chips of a host in GKE's node pool."""
  return min(tpu.chips, MAX_CHIPS_PER_HOST)


def num_hosts(tpu: Slice) -> int:
  """Return the hosts of a slice in GKE; a v5e TPU VM may have eight chips instead."""
  return tpu.chips // chips_per_host(tpu)


def machine_type(tpu: Slice) -> str:
  """Return the machine type of GKE's node pool."""
  return f'{cloud_names(tpu).machine}-{chips_per_host(tpu)}t'
