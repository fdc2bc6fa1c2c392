# SPDX-License-Identifier: Apache-2.0
"""What the chips of TPUs can do, and the devices of a slice as the compiler sees them,
without any TPU.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from acl_jax.tpu.slices import Slice

PRICES = 'US dollars per chip-hour on demand in the US, as listed in 2025'


@dataclasses.dataclass(frozen=True)
class Chip:
  """A chip of a generation; rates are per second.

  flops: of bfloat16. gib: of memory that libtpu lets a program use. ici: bytes that
  all its links together receive. devices: as JAX counts them. price: see `PRICES`;
  None where none is public.
  Sources: the Cloud's documentation, jax-ml/scaling-book; gib: libtpu itself.
  """

  flops: float
  gib: float
  hbm_rate: float
  ici: float
  devices: int
  chip_config: str
  price: float | None

  @property
  def hbm(self) -> int:
    """Bytes of memory."""
    return int(self.gib * (1 << 30))


CHIPS = {
  'v4': Chip(2.75e14, 30.75, 1.2e12, 2.7e11, 1, 'megacore', 3.22),
  'v5e': Chip(1.97e14, 15.75, 8.1e11, 1.8e11, 1, 'default', 1.20),
  'v5p': Chip(4.59e14, 95.74, 2.765e12, 5.4e11, 1, 'megacore', 4.20),
  'v6e': Chip(9.18e14, 31.25, 1.638e12, 3.6e11, 1, 'default', 2.70),
  'tpu7x': Chip(2.307e15, 189.5, 7.38e12, 6e11, 2, 'default', None),
}
ALL = ('v4-32', 'v5e-16', 'v5p-32', 'v6e-16', 'tpu7x-16')


def chip_of(slice: Slice) -> Chip:
  """What each chip of it can do; ValueError for a generation too old to plan for."""
  if (chip := CHIPS.get(slice.generation.name)) is None:
    raise ValueError(f'{slice}: there are plans for {", ".join(CHIPS)} only')
  return chip


def topology_devices(slice: Slice, num_slices: int = 1) -> Sequence:
  """What can be compiled for but not run on; ValueError if libtpu knows no such."""
  _quieten()
  how: dict[str, Any] = {
    'chip_config_name': chip_of(slice).chip_config,
    'num_slices': num_slices,
  }
  if slice.chips == 1:  # libtpu takes a host to have more, unless told
    how['chips_per_host_bounds'] = (1, 1, 1)
  try:
    found = topologies.get_topology_desc(str(slice), 'tpu', **how)
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f'{slice}: libtpu knows no such slice ({error})') from None
  except (ImportError, RuntimeError) as error:
    raise ValueError(
      f'there is no compiler for TPUs ({error}): pip install acl_jax[tpu]'
    ) from None
  return found.devices


def _quieten() -> None:
  """Keeps libtpu from looking for a TPU's machine, and from telling of it."""
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-16'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('TPU_STDERR_LOG_LEVEL', '3'),
    ('TPU_MIN_LOG_LEVEL', '3'),
    ('TF_CPP_MIN_LOG_LEVEL', '3'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
  ):
    os.environ.setdefault(name, value)
