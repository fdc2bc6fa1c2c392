# SPDX-License-Identifier: Apache-2.0
"""The accelerators of this machine, and the platforms that JAX may look for.

Where libtpu is installed, for `plan` or by an image for all machines, JAX loads it even
if there is no TPU. libtpu then searches for one, prints errors and handles signals.
"""

import glob
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path

GOOGLE_PCI_VENDOR = '0x1ae0'
# By PCI device; other devices of this vendor are disks and network cards.
TPU_GENERATIONS = {
  '0x005e': 'v4',
  '0x0062': 'v5p',
  '0x0063': 'v5e',
  '0x006f': 'v6e',
  '0x0076': 'tpu7x',
}
PCI_DEVICES = Path('/sys/bus/pci/devices')
# Up to v4 the chips are /dev/accel0 and so on, later /dev/vfio/0.
_TPU_FILES = 'dev/accel[0-9]*', 'dev/vfio/[0-9]*'
# Set on the hosts of a slice by the Cloud, by GKE or by whoever starts the processes.
_TPU_VARIABLES = (
  'TPU_ACCELERATOR_TYPE',
  'TPU_NAME',
  'TPU_PROCESS_ADDRESSES',
  'TPU_WORKER_HOSTNAMES',
  'TPU_WORKER_ID',
  'JAX_FORCE_TPU_INIT',
)
# Plugins of JAX by the beginning of their names: the platform, and files of devices.
_GPU_PLUGINS = {
  'xla_cuda': ('cuda', ('dev/nvidia[0-9]*', 'dev/nvidiactl', 'dev/dxg')),
  'xla_rocm': ('rocm', ('dev/kfd',)),
}


def choose_platforms() -> None:
  """Let JAX load libtpu only where a TPU may be; call it before a backend starts.

  Changes nothing if JAX_PLATFORMS is set, if JAX is not imported, if libtpu is not
  installed, or if a plugin is installed whose devices are unknown here.
  """
  jax = sys.modules.get('jax')
  if jax is None or jax.config.jax_platforms or 'JAX_PLATFORMS' in os.environ:
    return
  if importlib.util.find_spec('libtpu') is None and not os.environ.get(
    'TPU_LIBRARY_PATH'
  ):
    return
  if platforms := platforms_without_tpu(jax_plugins(), os.environ):
    jax.config.update('jax_platforms', platforms)


def platforms_without_tpu(
  plugins: set[str], environment: Mapping[str, str], root: Path = Path('/')
) -> str | None:
  """Return the platforms to choose from, in JAX's form; None to let JAX choose.

  plugins: names of the installed ones. root: of the file system.
  """
  if has_tpu(environment, root):
    return None
  platforms = []
  for plugin in sorted(plugins):
    known = [value for name, value in _GPU_PLUGINS.items() if plugin.startswith(name)]
    if not known:
      return None
    (platform, files), *_ = known
    if platform not in platforms and _exists(root, files):
      platforms.append(platform)
  return ','.join([*platforms, 'cpu'])


def has_tpu(environment: Mapping[str, str], root: Path = Path('/')) -> bool:
  """Return whether there may be a TPU: by the environment, files or the PCI bus."""
  if any(name in environment for name in _TPU_VARIABLES):
    return True
  pci = root / PCI_DEVICES.relative_to('/')
  return _exists(root, _TPU_FILES) or tpu_generation(pci) is not None


def tpu_generation(pci_devices: Path = PCI_DEVICES) -> str | None:
  """Return the generation of this machine's TPUs; None if the PCI bus has none."""
  for folder in sorted(pci_devices.glob('*')):
    try:
      vendor = (folder / 'vendor').read_text().strip()
      device = (folder / 'device').read_text().strip()
    except OSError:
      continue
    if vendor == GOOGLE_PCI_VENDOR and device in TPU_GENERATIONS:
      return TPU_GENERATIONS[device]
  return None


def jax_plugins() -> set[str]:
  """Return the names of JAX's plugins that are installed, but libtpu."""
  names = {entry.name for entry in importlib.metadata.entry_points(group='jax_plugins')}
  spec = importlib.util.find_spec('jax_plugins')
  folders = spec.submodule_search_locations if spec else None
  return names | {module.name for module in pkgutil.iter_modules(folders or [])}


def _exists(root: Path, patterns: tuple[str, ...]) -> bool:
  return any(glob.glob(f'{glob.escape(str(root))}/{pattern}') for pattern in patterns)
