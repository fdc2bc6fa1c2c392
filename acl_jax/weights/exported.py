# SPDX-License-Identifier: Apache-2.0
"""The folder that `acl_jax.export` writes: three models, each with a prefix.

It has `audio_tower.`, `multi_modal_projector.` and, unless that is elsewhere,
`language_model.`; the importers of the first and the last take it as if it held only
theirs.
"""

from pathlib import Path
from typing import Any

from acl_jax.runtime.files import read_json
from acl_jax.weights import safetensors
from acl_jax.weights.table import Tensor

CONFIG = 'config.json'
MODEL_TYPE = 'audio_chat_llama'


def is_exported(folder: Path) -> bool:
  """Whether `acl_jax.export` wrote it."""
  found = folder / CONFIG
  return found.is_file() and read_json(found).get('model_type') == MODEL_TYPE


def read_config(folder: Path) -> dict[str, Any]:
  """The configuration of an exported folder."""
  found = read_json(folder / CONFIG)
  if found.get('model_type') != MODEL_TYPE:
    kind = found.get('model_type')
    raise ValueError(f'{folder / CONFIG}: model_type is {kind!r}, not {MODEL_TYPE}')
  for part in ('audio_config', 'text_config'):
    if not isinstance(found.get(part), dict):
      raise ValueError(f'{folder / CONFIG}: {part} is not an object')
  return found


def open_part(
  folder: Path, key: str, prefix: str, ignored: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
  """The configuration and the tensors of a model that is alone in a folder, or a part.

  key, prefix: of an exported folder's. ignored: as in `safetensors.read`.
  """
  found = read_json(folder / CONFIG)
  if found.get('model_type') != MODEL_TYPE:
    return found, safetensors.read(folder, ignored)
  tensors = safetensors.read(folder, ignored, safetensors.DTYPES)
  return read_config(folder)[key], {
    name.removeprefix(prefix): tensor
    for name, tensor in tensors.items()
    if name.startswith(prefix)
  }
