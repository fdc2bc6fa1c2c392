# SPDX-License-Identifier: Apache-2.0
"""JAX's persistent compilation cache, which makes the next start faster."""

import contextlib
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

# Private, but the only way to change a key; see `_hash_devices`. Another release of JAX
# may not have it.
try:
  from jax._src import cache_key
except ImportError:
  cache_key: Any = None

CPUINFO = Path('/proc/cpuinfo')
_HASH = '_hash_accelerator_config'
_hash_topology: Any = getattr(cache_key, _HASH, None)


def enable(folder: Path) -> None:
  """Cache compiled programs in `folder`, unless JAX_COMPILATION_CACHE_DIR is set."""
  # JAX has copied the environment variable to its config.
  if not jax.config.values['jax_compilation_cache_dir']:
    jax.config.update('jax_compilation_cache_dir', str(folder))
  if _hash_topology is not None:
    setattr(cache_key, _HASH, _hash_devices)


def _hash_devices(hash_obj: Any, devices: np.ndarray) -> None:
  """Hash the devices that a program is for, equally in all processes of a job.

  JAX's hash of several processes' CPUs differs from process to process, and only
  process 0 writes to the cache: the others would compile everything at every start. The
  program itself is the same in all. That of TPUs and GPUs is the same, too.
  """
  if devices.flat[0].platform != 'cpu' or jax.process_count() == 1:
    return _hash_topology(hash_obj, devices)
  indices = [device.process_index for device in devices.flat]
  hash_obj.update(f'{_describe_cpu()} {indices}'.encode())


def _describe_cpu() -> str:
  """Return the kind of this CPU and the instructions that it has."""
  text = CPUINFO.read_text() if CPUINFO.exists() else ''
  lines = re.findall(r'^(?:model name|flags|Features)\s*:.*$', text, re.MULTILINE)
  return ' '.join([platform.machine(), *dict.fromkeys(lines)])


@contextlib.contextmanager
def disabled() -> Iterator[None]:
  """Disable the cache in a block, as it cannot load programs for absent devices."""
  before = jax.config.values['jax_enable_compilation_cache']
  try:
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()  # JAX remembers whether the cache is in use
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()
