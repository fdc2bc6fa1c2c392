# SPDX-License-Identifier: Apache-2.0
"""What a figure holds for: the processor, the accelerator and the libraries."""

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARIES = (
  'jax',
  'jaxlib',
  'flax',
  'numpy',
  'torch',
  'transformers',
  'grain',
  'array-record',
  'soundfile',
  'soxr',
  'librosa',
  'kaldi-native-fbank',
  'ctranslate2',
  'faster-whisper',
)
# Instructions that change the speed of matrix products.
INSTRUCTIONS = 'avx2', 'avx512f', 'avx512_bf16', 'amx_bf16', 'asimd', 'sve'


def print_result(result: Mapping[str, Any]) -> None:
  """Print the figures of a benchmark and the machine as one line of JSON."""
  print(json.dumps({**result, 'machine': describe_machine()}), flush=True)


def describe_machine(cpuinfo: Path = Path('/proc/cpuinfo')) -> dict[str, Any]:
  """Return the CPU's model, instructions and cores, accelerators and versions.

  The versions are of what is installed, the accelerators those that JAX has started.
  """
  versions = {'python': platform.python_version()}
  for name in LIBRARIES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  text = cpuinfo.read_text() if cpuinfo.exists() else ''
  words = set(text.split())
  return {
    'cpu': _cpu_model(text),
    'instructions': [name for name in INSTRUCTIONS if name in words],
    'cores': _num_cores(),
    'accelerators': _accelerators(),
    'versions': versions,
  }


def _cpu_model(cpuinfo: str) -> str:
  """Return the name that the maker gave, or that of the architecture."""
  match = re.search(r'^model name\s*:\s*(.+)$', cpuinfo, re.MULTILINE)
  return match[1] if match else platform.machine()


def _num_cores() -> int:
  """Return the cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _accelerators() -> list[str]:
  """Return the models of JAX's devices; none if they are CPUs or JAX is not used."""
  jax = sys.modules.get('jax')
  if jax is None:
    return []
  return [each.device_kind for each in jax.devices() if each.platform != 'cpu']
