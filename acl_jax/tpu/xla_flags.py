# SPDX-License-Identifier: Apache-2.0
"""XLA flags for each TPU generation, used alike for planning and for running."""

import os
from collections.abc import Mapping
from pathlib import Path

from acl_jax.runtime.accelerators import PCI_DEVICES, tpu_generation

# Gather weights while the chip computes.
_OVERLAP_ALL_GATHER = {
  'xla_tpu_enable_async_collective_fusion': True,
  'xla_tpu_enable_async_collective_fusion_multiple_steps': True,
  'xla_tpu_overlap_compute_collective_tc': True,
  'xla_enable_async_all_gather': True,
}
# Of v5e alone: libtpu 0.0.50 refuses it on other chips, where results may be wrong.
_FUSE_ALL_GATHER = {'xla_tpu_enable_async_collective_fusion_fuse_all_gather': True}
# Sum gradients while the chip computes.
_OVERLAP_ALL_REDUCE = {
  'xla_tpu_enable_data_parallel_all_reduce_opt': True,
  'xla_tpu_data_parallel_opt_different_sized_ops': True,
}
# Windowed einsums, which gather weights in pieces, take minutes to compile.
_NO_WINDOWED_EINSUM = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': 1_000_000}
FLAGS: Mapping[str, Mapping[str, bool | int]] = {
  'v4': _NO_WINDOWED_EINSUM | _OVERLAP_ALL_GATHER | _OVERLAP_ALL_REDUCE,
  'v5e': _NO_WINDOWED_EINSUM
  | _OVERLAP_ALL_GATHER
  | _FUSE_ALL_GATHER
  | _OVERLAP_ALL_REDUCE,
  'v5p': _NO_WINDOWED_EINSUM | _OVERLAP_ALL_GATHER | _OVERLAP_ALL_REDUCE,
  'v6e': _NO_WINDOWED_EINSUM | _OVERLAP_ALL_GATHER | _OVERLAP_ALL_REDUCE,
  'tpu7x': _NO_WINDOWED_EINSUM | _OVERLAP_ALL_REDUCE,
}


def compiler_options(generation: str) -> dict[str, str | bool]:
  """Return a generation's flags in the form of JAX's `compiler_options`."""
  return {
    name: value if isinstance(value, bool) else str(value)
    for name, value in FLAGS[generation].items()
  }


def libtpu_init_args(generation: str) -> str:
  """Return a generation's flags in the form of LIBTPU_INIT_ARGS."""
  return ' '.join(
    f'--{name}={str(value).lower()}' for name, value in FLAGS[generation].items()
  )


def set_local_flags(pci_devices: Path = PCI_DEVICES) -> None:
  """Set the flags for this machine's TPUs, if it has any; call it before JAX starts.

  Flags that LIBTPU_INIT_ARGS has already come after them and take precedence.
  """
  if generation := tpu_generation(pci_devices):
    user_args = os.environ.get('LIBTPU_INIT_ARGS', '')
    args = f'{libtpu_init_args(generation)} {user_args}'.strip()
    os.environ['LIBTPU_INIT_ARGS'] = args
