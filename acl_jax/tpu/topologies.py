# SPDX-License-Identifier: Apache-2.0
"""Published rates of TPU chips, and the devices of a slice to compile for.

Neither needs a TPU.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from acl_jax.runtime import sigterm
from acl_jax.tpu.slices import Slice

PRICE_BASIS = 'US dollars per chip-hour on demand in the US, as listed in 2025'


@dataclasses.dataclass(frozen=True)
class Chip:
  """The specification of a generation's chip.

  Sources: the Cloud's documentation and jax-ml/scaling-book; `hbm_gib`: libtpu itself.

  Attributes:
    flops_per_second: Peak rate in bfloat16.
    hbm_gib: Memory that libtpu lets a program use, in GiB.
    hbm_bytes_per_second: Bandwidth of that memory.
    ici_bytes_per_second: Bytes that all interconnect links together receive.
    num_devices: Devices that JAX counts for one chip.
    libtpu_config: Name of the chip's configuration in libtpu.
    price: See `PRICE_BASIS`; None if there is no public price.
  """

  flops_per_second: float
  hbm_gib: float
  hbm_bytes_per_second: float
  ici_bytes_per_second: float
  num_devices: int
  libtpu_config: str
  price: float | None

  @property
  def hbm_bytes(self) -> int:
    return int(self.hbm_gib * (1 << 30))


# fmt: off
CHIPS = {
  'v4':    Chip(2.750e14,  30.75, 1.200e12, 2.7e11, 1, 'megacore', 3.22),
  'v5e':   Chip(1.970e14,  15.75, 8.100e11, 1.8e11, 1, 'default',  1.20),
  'v5p':   Chip(4.590e14,  95.74, 2.765e12, 5.4e11, 1, 'megacore', 4.20),
  'v6e':   Chip(9.180e14,  31.25, 1.638e12, 3.6e11, 1, 'default',  2.70),
  'tpu7x': Chip(2.307e15, 189.50, 7.380e12, 6.0e11, 2, 'default',  None),
}
# fmt: on
DEFAULT_SLICES = ('v4-32', 'v5e-16', 'v5p-32', 'v6e-16', 'tpu7x-16')


def chip_for(slice: Slice) -> Chip:
  """Return a slice's chip; ValueError if its generation is too old to plan for."""
  if (chip := CHIPS.get(slice.generation.name)) is None:
    raise ValueError(f'{slice}: only {", ".join(CHIPS)} can be planned for')
  return chip


def topology_devices(slice: Slice, num_slices: int = 1) -> Sequence:
  """Return devices to compile for, not to run on; ValueError if libtpu has none."""
  _set_libtpu_environment()
  options: dict[str, Any] = {
    'chip_config_name': chip_for(slice).libtpu_config,
    'num_slices': num_slices,
  }
  if slice.chips == 1:  # by default libtpu assumes that a host has more
    options['chips_per_host_bounds'] = (1, 1, 1)
  try:
    topology = topologies.get_topology_desc(str(slice), 'tpu', **options)
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f'{slice}: libtpu does not know this slice ({error})') from None
  except (ImportError, RuntimeError) as error:
    raise ValueError(
      f'libtpu, the compiler for TPUs, is not available ({error}): pip install'
      ' acl_jax[tpu]'
    ) from None
  finally:
    sigterm.take_back()  # from libtpu, which prints its stack and dies
  return topology.devices


def _set_libtpu_environment() -> None:
  """Let libtpu compile on a machine without a TPU; the user's own settings win.

  `import jax` itself sets TPU_SKIP_MDS_QUERY on a machine without TPU chips, so that
  libtpu does not wait for the Cloud's metadata server.
  """
  # Otherwise libtpu locks /tmp/libtpu_lockfile, and a second process that plans at the
  # same time is aborted.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  # Without these libtpu compiles, but prints errors about the missing TPU host. The
  # values do not affect the topologies that it is asked for by name.
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-16')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
