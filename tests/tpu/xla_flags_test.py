# SPDX-License-Identifier: Apache-2.0
"""libtpu accepts every flag, and gets them on a machine with TPUs."""

import jax
import jax.numpy as jnp
import pytest

from acl_jax.runtime import accelerators, compilation_cache
from acl_jax.tpu import slices, topologies, xla_flags


def compile_with(name, flags):
  device = topologies.topology_devices(slices.parse_slice(name))[0]
  sharding = jax.sharding.SingleDeviceSharding(device)
  x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=sharding)
  lowered = jax.jit(lambda x: x + 1).lower(x)
  with compilation_cache.disabled():
    return lowered.compile(compiler_options=dict(flags))


@pytest.mark.full
@pytest.mark.parametrize('name', topologies.DEFAULT_SLICES)
def test_libtpu_accepts_every_flag(name):
  compile_with(name, xla_flags.FLAGS[slices.parse_slice(name).generation.name])


@pytest.mark.full
def test_libtpu_refuses_an_unknown_flag():
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_tpu_no_such_flag'):
    compile_with('v5e-16', {'xla_tpu_no_such_flag': True})


def test_every_generation_has_flags_and_a_pci_device():
  assert (
    set(xla_flags.FLAGS)
    == set(accelerators.TPU_GENERATIONS.values())
    == set(topologies.CHIPS)
  )


@pytest.mark.parametrize('user_flags', ['', '--xla_tpu_scoped_vmem_limit_kib=1'])
def test_flags_of_this_machine_come_before_those_of_the_user(
  tmp_path, monkeypatch, user_flags
):
  monkeypatch.setenv('LIBTPU_INIT_ARGS', user_flags)
  for name, vendor, device in (
    ('0000:00:01.0', '0x8086', '0x006f'),
    ('0000:00:05.0', '0x1ae0', '0x006f'),
  ):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'vendor').write_text(vendor + '\n')
    (tmp_path / name / 'device').write_text(device + '\n')
  xla_flags.set_local_flags(tmp_path)
  flags = xla_flags.os.environ['LIBTPU_INIT_ARGS']
  assert flags.startswith('--') and flags.endswith(user_flags)
  assert '--xla_enable_async_all_gather=true' in flags


def test_without_tpus_no_flag_is_set(tmp_path, monkeypatch):
  monkeypatch.delenv('LIBTPU_INIT_ARGS', raising=False)
  (tmp_path / 'gone').mkdir()
  xla_flags.set_local_flags(tmp_path)
  assert 'LIBTPU_INIT_ARGS' not in xla_flags.os.environ
