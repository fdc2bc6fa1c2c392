# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax.sharding.mesh import batch_parts, make_mesh
from tests.sharding.meshes import MESHES


def test_axis_sizes_and_batch_parts():
  sizes = {name: tuple(make_mesh(m).shape.values()) for name, m in MESHES.items()}
  assert sizes == {
    'data': (8, 1, 1),
    'fsdp': (1, 8, 1),
    'tensor': (4, 1, 2),
    'all': (2, 2, 2),
  }
  for name, (data, fsdp, tensor) in sizes.items():
    mesh = make_mesh(MESHES[name])
    assert batch_parts(mesh) == (tuple(range(8 // tensor)), data * fsdp)


@pytest.mark.parametrize(
  'sizes, message',
  [
    ((1, 3, 1), r'config\.mesh.* data 1 x fsdp 3 x tensor 1.* 8 devices'),
    ((3, -1, 1), r'config\.mesh.* data 3 x fsdp -1 x tensor 1.* 8 devices'),
    ((-1, -1, 1), r'config\.mesh.* data -1 x fsdp -1 x tensor 1.* one axis'),
    ((1, 0, 8), r'config\.mesh\.fsdp is 0;.* -1'),
    ((1, 8.0, 1), r'config\.mesh\.fsdp is 8\.0;.* -1'),
  ],
)
def test_invalid_sizes_are_refused(sizes, message):
  with pytest.raises(ValueError, match=message):
    make_mesh(dict(zip(('data', 'fsdp', 'tensor'), sizes, strict=True)))


def test_unknown_axes_are_refused():
  with pytest.raises(ValueError, match=r"config\.mesh.*\['data', 'model'\].*'fsdp'"):
    make_mesh({'data': 1, 'model': 8})


class Device:
  """A device of one of several slices."""

  platform, device_kind, process_index = 'cpu', 'any', 0

  def __init__(self, id, slices):
    self.id, self.slice_index = id, id % slices


def test_several_slices_multiply_data_and_other_axes_stay_within_a_slice():
  mesh = make_mesh(dict(data=2, fsdp=-1, tensor=3), [Device(i, 4) for i in range(48)])
  assert tuple(mesh.shape.values()) == (8, 2, 3)
  slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  assert (slices == np.arange(8)[:, None, None] // 2).all()
