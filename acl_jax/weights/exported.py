# SPDX-License-Identifier: Apache-2.0
"""Reads the folder that `acl_jax.export` writes, which holds up to three models.

So does the folder of an Ultravox, whoever trained it.

Tensor names start with `audio_tower.`, `multi_modal_projector.` or `language_model.`;
the language model may be stored elsewhere. `read_submodel` returns one of them as if it
were alone in the folder.
"""

from pathlib import Path
from typing import Any

from acl_jax.runtime.files import read_json
from acl_jax.weights import safetensors, ultravox
from acl_jax.weights.tensor import Tensor

CONFIG, PROCESSOR_CONFIG = 'config.json', 'processor_config.json'
MODEL_TYPE, ULTRAVOX = 'audio_chat_llama', 'ultravox'
MODEL_TYPES = (MODEL_TYPE, ULTRAVOX)


def is_exported(folder: Path) -> bool:
  """Return whether a folder is one of `acl_jax.export` or of an Ultravox."""
  path = folder / CONFIG
  return path.is_file() and read_json(path).get('model_type') in MODEL_TYPES


def read_exported_config(folder: Path) -> dict[str, Any]:
  """Return the `config.json` of an exported folder; ValueError if it is not one."""
  path = folder / CONFIG
  config = read_json(path)
  if (model_type := config.get('model_type')) not in MODEL_TYPES:
    names = ' or '.join(MODEL_TYPES)
    raise ValueError(f'{path}: model_type is {model_type!r}, not {names}')
  if model_type == ULTRAVOX:
    config = ultravox.complete_config(config, path)
  for key in ('audio_config', 'text_config'):
    if not isinstance(config.get(key), dict):
      raise ValueError(f'{path}: {key} is not a JSON object')
  return config


def read_exported_silence(folder: Path) -> int | None:
  """Return the log-mel frames of silence that an export's processor appends.

  None without a processor: Transformers' `save_pretrained` writes the model alone.
  """
  path = folder / PROCESSOR_CONFIG
  if not path.is_file():
    return None
  silence = read_json(path).get('trailing_silence', 0)
  if not isinstance(silence, int):
    raise ValueError(f'{path}: trailing_silence is {silence!r}, not a number of frames')
  return silence


def read_submodel(
  folder: Path, config_key: str, prefix: str, ignored_suffix: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
  """Return the configuration and the tensors of one model, which are not read yet.

  folder: holds that model alone, or all those of an export.
  config_key, prefix: of the model in the `config.json` and in the tensor names of an
    export.
  ignored_suffix: as in `safetensors.read`.
  """
  config = read_json(folder / CONFIG)
  if config.get('model_type') not in MODEL_TYPES:
    return config, safetensors.read(folder, ignored_suffix)
  tensors = safetensors.read(folder, ignored_suffix, safetensors.DTYPES)
  return read_exported_config(folder)[config_key], {
    name.removeprefix(prefix): tensor
    for name, tensor in tensors.items()
    if name.startswith(prefix)
  }
