# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from acl_jax.sharding.arrays import to_device, to_host
from acl_jax.sharding.mesh import make_mesh
from tests.sharding.meshes import MESHES


def test_a_batch_is_sharded_by_rows_and_gathered_again():
  batch = {'x': np.arange(24.0).reshape(8, 3), 'prefix': np.arange(5)}
  with jax.set_mesh(make_mesh(MESHES['all'])):
    on_device = to_device(batch)
    on_host = to_host(on_device)
  assert on_device['x'].sharding.spec == P(('data', 'fsdp'))
  assert on_device['prefix'].sharding.spec == P()
  jax.tree.map(np.testing.assert_array_equal, on_device, batch)
  jax.tree.map(np.testing.assert_array_equal, on_host, batch)
  assert all(len(x.sharding.device_set) == 1 for x in jax.tree.leaves(on_host))
