# SPDX-License-Identifier: Apache-2.0
"""What XLA is told for each generation of TPUs, by the one that plans and by the one
that runs.
"""

import os
from collections.abc import Mapping
from pathlib import Path

# Weights are gathered, and gradients summed, while the chip computes.
_GATHER_BEHIND = {
  'xla_tpu_enable_async_collective_fusion': True,
  'xla_tpu_enable_async_collective_fusion_fuse_all_gather': True,
  'xla_tpu_enable_async_collective_fusion_multiple_steps': True,
  'xla_tpu_overlap_compute_collective_tc': True,
  'xla_enable_async_all_gather': True,
}
_SUM_BEHIND = {
  'xla_tpu_enable_data_parallel_all_reduce_opt': True,
  'xla_tpu_data_parallel_opt_different_sized_ops': True,
}
# Weights are gathered whole: piece by piece, they take minutes to compile.
_WHOLE = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': 1_000_000}
FLAGS: Mapping[str, Mapping[str, bool | int]] = {
  'v4': _WHOLE | _GATHER_BEHIND | _SUM_BEHIND,
  'v5e': _WHOLE | _GATHER_BEHIND | _SUM_BEHIND,
  'v5p': _WHOLE | _GATHER_BEHIND | _SUM_BEHIND,
  'v6e': _WHOLE | _GATHER_BEHIND | _SUM_BEHIND,
  'tpu7x': _WHOLE | _SUM_BEHIND,
}
GOOGLE = '0x1ae0'
DEVICES = {  # on the PCI bus
  '0x005e': 'v4',
  '0x0062': 'v5p',
  '0x0063': 'v5e',
  '0x006f': 'v6e',
  '0x0076': 'tpu7x',
}


def as_options(generation: str) -> dict[str, str | bool]:
  """The flags of a generation, as JAX's compiler has them."""
  return {
    name: value if isinstance(value, bool) else str(value)
    for name, value in FLAGS[generation].items()
  }


def as_arguments(generation: str) -> str:
  """The flags of a generation, as LIBTPU_INIT_ARGS has them."""
  return ' '.join(
    f'--{name}={str(value).lower()}' for name, value in FLAGS[generation].items()
  )


def set_local_flags(bus: Path = Path('/sys/bus/pci/devices')) -> None:
  """Before JAX starts: tells libtpu the flags of this machine's TPUs, if it has any.

  What LIBTPU_INIT_ARGS says already stands behind them and wins.
  """
  if generation := _generation_here(bus):
    given = os.environ.get('LIBTPU_INIT_ARGS', '')
    os.environ['LIBTPU_INIT_ARGS'] = f'{as_arguments(generation)} {given}'.strip()


def _generation_here(bus: Path) -> str | None:
  for device in sorted(bus.glob('*')):
    try:
      vendor = (device / 'vendor').read_text().strip()
      kind = (device / 'device').read_text().strip()
    except OSError:
      continue
    if vendor == GOOGLE and kind in DEVICES:
      return DEVICES[kind]
  return None
