# SPDX-License-Identifier: Apache-2.0
"""The mesh: all devices as a box of three axes.

`data` has copies of the model, `fsdp` cuts parameters, `tensor` cuts the computation.
Rows of a batch are cut along `data` and `fsdp`.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ('data', 'fsdp', 'tensor')
REMAINING = -1


def make_mesh(sizes: Mapping[str, int], devices: Sequence | None = None) -> Mesh:
  """The mesh of `config.mesh` over `devices`, or over all there are.

  sizes: of each axis within a slice; one of them may be -1, the rest. Several slices
    multiply `data`, whose traffic is the only one that a network between them can bear.
  """
  devices = jax.devices() if devices is None else devices
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  within = _resolve_sizes(sizes, len(devices) // slices)
  if slices == 1:
    grid = mesh_utils.create_device_mesh(
      within, devices, allow_split_physical_axes=True
    )
  else:
    grid = mesh_utils.create_hybrid_device_mesh(
      within, (slices, 1, 1), devices, allow_split_physical_axes=True
    )
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _resolve_sizes(sizes: Mapping[str, int], devices: int) -> tuple[int, ...]:
  """The sizes in the order of `AXES`, the rest found."""
  if set(sizes) != set(AXES):
    raise ValueError(f'config.mesh has the axes {sorted(sizes)}, not {sorted(AXES)}')
  for axis, size in sizes.items():
    if type(size) is not int or (size < 1 and size != REMAINING):
      raise ValueError(
        f'config.mesh.{axis} = {size!r} is neither positive nor {REMAINING}'
      )
  known = math.prod(size for size in sizes.values() if size != REMAINING)
  written = ' x '.join(f'{axis} {sizes[axis]}' for axis in AXES)
  rests = list(sizes.values()).count(REMAINING)
  if rests > 1:
    raise ValueError(f'config.mesh is {written}; one axis at most can be the rest')
  if devices % known or (not rests and known != devices):
    raise ValueError(f'config.mesh is {written}; that does not fit {devices} devices')
  return tuple(
    devices // known if sizes[axis] == REMAINING else sizes[axis] for axis in AXES
  )


def batch_parts(mesh: Mesh) -> tuple[tuple[int, ...], int]:
  """Which equal parts of a batch's rows this process has, and how many parts there are.

  Processes whose devices compute the same rows together have the same parts. All is one
  part where no mesh is set, which is the empty one.
  """
  if mesh.empty:
    return (0,), 1
  processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
  mine = (processes == jax.process_index()).reshape(-1, mesh.shape['tensor'])
  return tuple(np.flatnonzero(mine.any(axis=1)).tolist()), len(mine)
