# SPDX-License-Identifier: Apache-2.0
"""The device mesh, with three axes.

`data` replicates the model, `fsdp` shards parameters, `tensor` shards the computation
of a layer. Rows of a batch are sharded over `data` and `fsdp`.
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
  """Create the mesh of `config.mesh` over `devices`, by default over all devices.

  sizes: of each axis within a slice; one of them may be -1 and gets the remaining
    devices. The number of slices multiplies `data`, because only its traffic is small
    enough for the network between slices.
  """
  devices = jax.devices() if devices is None else devices
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  slice_shape = _resolve_sizes(sizes, len(devices) // slices)
  if slices == 1:
    grid = mesh_utils.create_device_mesh(
      slice_shape, devices, allow_split_physical_axes=True
    )
  else:
    grid = mesh_utils.create_hybrid_device_mesh(
      slice_shape, (slices, 1, 1), devices, allow_split_physical_axes=True
    )
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _resolve_sizes(sizes: Mapping[str, int], devices: int) -> tuple[int, ...]:
  """Return the sizes in the order of `AXES`, with -1 replaced."""
  if set(sizes) != set(AXES):
    raise ValueError(
      f'config.mesh has the axes {sorted(sizes)}; it must have {sorted(AXES)}'
    )
  for axis, size in sizes.items():
    if type(size) is not int or (size < 1 and size != REMAINING):
      raise ValueError(
        f'config.mesh.{axis} is {size!r}; it must be a positive integer, or'
        f' {REMAINING} for the remaining devices'
      )
  known = math.prod(size for size in sizes.values() if size != REMAINING)
  description = ' x '.join(f'{axis} {sizes[axis]}' for axis in AXES)
  num_remaining = list(sizes.values()).count(REMAINING)
  if num_remaining > 1:
    raise ValueError(
      f'config.mesh is {description}; at most one axis can be {REMAINING}'
    )
  if devices % known or (not num_remaining and known != devices):
    raise ValueError(
      f'config.mesh is {description}, which does not fit {devices} devices'
    )
  return tuple(
    devices // known if sizes[axis] == REMAINING else sizes[axis] for axis in AXES
  )


def batch_parts(mesh: Mesh) -> tuple[tuple[int, ...], int]:
  """Return this process's parts of a batch's rows, and the number of (equal) parts.

  Processes whose devices share the computation of rows have the same parts. The empty
  mesh has one part.
  """
  if mesh.empty:
    return (0,), 1
  processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
  is_local = (processes == jax.process_index()).reshape(-1, mesh.shape['tensor'])
  return tuple(np.flatnonzero(is_local.any(axis=1)).tolist()), len(is_local)
