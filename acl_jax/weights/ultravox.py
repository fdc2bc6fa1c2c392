# SPDX-License-Identifier: Apache-2.0
"""Reads the configuration of an Ultravox folder, ours or a published one.

A published one may hold the projector alone, and name its encoder and its LLM
(`audio_model_id`, `text_model_id`) instead of describing them. Sizes that
`config.json` does not have are those of its tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acl_jax.weights import safetensors
from acl_jax.weights.tensor import Tensor

TOWER, PROJECTOR = 'audio_tower.', 'multi_modal_projector.'
PROJECTOR_TENSORS = ('ln_pre', 'linear_1', 'ln_mid', 'linear_2')
# Transformers does not write what equals these defaults of Ultravox.
DEFAULTS = {
  'stack_factor': 8,
  'hidden_size': 4_096,
  'projector_act': 'swiglu',
  'num_projector_layers': 0,
}
HEAD_SIZE = 64  # of every Whisper


def complete_config(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
  """Return a `config.json` with the entries that ours have.

  Raises ValueError for a projector that is not of our kind: Ultravox from v0.5 on, with
  SwiGLU and without a transformer.
  """
  config = DEFAULTS | dict(config)
  if (layers := config['num_projector_layers']) != 0:
    raise ValueError(
      f'{path}: num_projector_layers is {layers!r}; only 0 is supported, a projector'
      ' without a transformer'
    )
  if (activation := config['projector_act']) != 'swiglu':
    raise ValueError(f'{path}: projector_act is {activation!r}, not swiglu')
  tensors = safetensors.read(path.parent, None, safetensors.DTYPES)
  _check_names(config, tensors, path)
  linear_1, linear_2 = (
    _shape(tensors, f'{PROJECTOR}linear_{i}.weight', path) for i in (1, 2)
  )
  if not isinstance(config.get('text_config'), dict):
    config['text_config'] = {'hidden_size': linear_2[0]}
  if not isinstance(config.get('audio_config'), dict):
    config['audio_config'] = _infer_encoder(tensors)
  stack, audio = config['stack_factor'], config['audio_config']
  if 'd_model' not in audio and isinstance(stack, int) and stack > 0:
    config['audio_config'] = audio | {'d_model': linear_1[1] // stack}
  return config


def has_encoder(folder: Path) -> bool:
  """Return whether a folder holds an encoder, as it does if that was trained."""
  tensors = safetensors.read(folder, None, safetensors.DTYPES)
  return any(name.startswith(TOWER) for name in tensors)


def _check_names(
  config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> None:
  """Raise ValueError for the tensors of a projector or of updates that we lack."""
  names = {name for name in tensors if name.startswith(PROJECTOR)}
  if f'{PROJECTOR}ln_post.weight' in names or not config.get('projector_ln_mid'):
    raise ValueError(
      f'{path}: a projector of Ultravox v0.4.1 or earlier, which normalises after its'
      ' last matrix (ln_post); only projector_ln_mid = true is supported, as from v0.5'
      ' on'
    )
  if updates := [name for name in tensors if 'lora_' in name]:
    raise ValueError(
      f'{path.parent}: {updates[0]} is a low-rank update; merge it into its matrix'
    )
  known = {f'{PROJECTOR}{name}.weight' for name in PROJECTOR_TENSORS}
  if wrong := sorted(names ^ known):
    verb = 'is missing' if wrong[0] in known else 'is not of an Ultravox from v0.5 on'
    raise ValueError(f'{path.parent}: the tensor {wrong[0]} {verb}')


def _shape(tensors: Mapping[str, Tensor], name: str, path: Path) -> tuple[int, int]:
  shape = tensors[name].shape
  if len(shape) != 2:
    raise ValueError(
      f'{path.parent}: {name} has the shape {shape}, not that of a matrix'
    )
  return shape[0], shape[1]


def _infer_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
  """Return the `audio_config` of the encoder in the folder; {} if there is none."""
  shapes = {
    name.removeprefix(TOWER).removeprefix('model.').removeprefix('encoder.'): t.shape
    for name, t in tensors.items()
    if name.startswith(TOWER)
  }
  try:
    width, num_mel_bins, _ = shapes['conv1.weight']
    return {
      'model_type': 'whisper',
      'activation_function': 'gelu',
      'num_mel_bins': num_mel_bins,
      'd_model': width,
      'encoder_layers': sum(name.endswith('.fc1.bias') for name in shapes),
      'encoder_attention_heads': width // HEAD_SIZE,
      'encoder_ffn_dim': shapes['layers.0.fc1.bias'][0],
      'max_source_positions': shapes['embed_positions.weight'][0],
    }
  except (KeyError, IndexError, ValueError):
    return {}
