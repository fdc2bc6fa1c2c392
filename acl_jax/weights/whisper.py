# SPDX-License-Identifier: Apache-2.0
"""Loads Whisper's encoder from Hugging Face or CTranslate2; saves it as the former."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models import whisper
from acl_jax.weights import safetensors, table
from acl_jax.weights.ctranslate2 import read_ctranslate2
from acl_jax.weights.exported import read_submodel
from acl_jax.weights.table import Names
from acl_jax.weights.tensor import Tensor

# Axes: d, e, o model width; f feed-forward; c kernel; m mel bins; p positions.
_LAYER = (
  ('self_attn.q_proj.weight', 'q_proj/weight', 'e d -> d e'),
  ('self_attn.q_proj.bias', 'q_proj/bias', 'd -> d'),
  ('self_attn.k_proj.weight', 'k_proj', 'e d -> d e'),
  ('self_attn.v_proj.weight', 'v_proj/weight', 'e d -> d e'),
  ('self_attn.v_proj.bias', 'v_proj/bias', 'd -> d'),
  ('self_attn.out_proj.weight', 'out_proj/weight', 'e d -> d e'),
  ('self_attn.out_proj.bias', 'out_proj/bias', 'd -> d'),
  ('self_attn_layer_norm.weight', 'self_attn_layer_norm/weight', 'd -> d'),
  ('self_attn_layer_norm.bias', 'self_attn_layer_norm/bias', 'd -> d'),
  ('fc1.weight', 'fc1/weight', 'f d -> d f'),
  ('fc1.bias', 'fc1/bias', 'f -> f'),
  ('fc2.weight', 'fc2/weight', 'd f -> f d'),
  ('fc2.bias', 'fc2/bias', 'd -> d'),
  ('final_layer_norm.weight', 'final_layer_norm/weight', 'd -> d'),
  ('final_layer_norm.bias', 'final_layer_norm/bias', 'd -> d'),
)
HUGGING_FACE = (
  ('conv1.weight', 'conv1/weight', 'o m c -> c m o'),
  ('conv1.bias', 'conv1/bias', 'd -> d'),
  ('conv2.weight', 'conv2/weight', 'o d c -> c d o'),
  ('conv2.bias', 'conv2/bias', 'd -> d'),
  ('embed_positions.weight', 'embed_positions', 'p d -> p d'),
  *[(f'layers.{{}}.{name}', f'layers/{path}', layout) for name, path, layout in _LAYER],
  ('layer_norm.weight', 'layer_norm/weight', 'd -> d'),
  ('layer_norm.bias', 'layer_norm/bias', 'd -> d'),
)
# The values of Hugging Face's attributes that our encoder implements.
_SUPPORTED_VALUES = {'model_type': 'whisper', 'activation_function': 'gelu'}


def load_whisper(folder: str | Path, dtype: DTypeLike = jnp.float32) -> whisper.Whisper:
  """Load an encoder, in Hugging Face's format or CTranslate2's.

  folder: holds `config.json` and safetensors, or `model.bin`.
  """
  folder = Path(folder)
  if (folder / 'model.bin').is_file():
    source = folder / 'model.bin'
    tensors, num_heads = read_ctranslate2(source, 'encoder/')
    config = _infer_config(tensors, num_heads, source)
  elif (folder / 'config.json').is_file():
    source = folder
    config_json, tensors = read_submodel(folder, 'audio_config', 'audio_tower.')
    config = _parse_config(config_json, folder / 'config.json')
    tensors = {
      name.removeprefix('model.').removeprefix('encoder.'): tensor
      for name, tensor in tensors.items()
      if not name.removeprefix('model.').startswith(('decoder.', 'proj_out.'))
    }
  else:
    raise FileNotFoundError(f'{folder} has neither config.json nor model.bin')
  model = jax.eval_shape(lambda: whisper.Whisper(config, rngs=nnx.Rngs(0)))
  return table.import_tensors(
    model,
    HUGGING_FACE,
    tensors,
    _axis_sizes(config),
    source=str(source),
    dtype=jnp.dtype(dtype),
  )


def save_whisper(model: whisper.Whisper, folder: str | Path) -> None:
  """Write a folder that `load_whisper` reads, with the names of Transformers."""
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  tensors = export_whisper(model)
  safetensors.write(folder, ((f'model.encoder.{name}', x) for name, x in tensors))
  config = json.dumps(describe_whisper(model), indent=2)
  (folder / 'config.json').write_text(config + '\n')


def export_whisper(model: whisper.Whisper) -> Iterator[tuple[str, Tensor]]:
  """Yield the tensors under the names of Transformers' `WhisperEncoder`."""
  return table.export_tensors(model, HUGGING_FACE, _axis_sizes(model.config))


def whisper_names(model: whisper.Whisper) -> Names:
  """Return the names of an encoder's parameters in Transformers."""
  return Names(HUGGING_FACE, _axis_sizes(model.config))


def describe_whisper(model: whisper.Whisper) -> dict[str, Any]:
  """Return the `config.json` of an encoder."""
  sizes = {name: getattr(model.config, name) for name in whisper.FILE_SIZES}
  return _SUPPORTED_VALUES | sizes


def _axis_sizes(config: whisper.WhisperConfig) -> dict[str, int]:
  return {
    'd': config.d_model,
    'e': config.d_model,
    'o': config.d_model,
    'f': config.encoder_ffn_dim,
    'c': 3,
    'm': config.num_mel_bins,
    'p': config.max_source_positions,
    'l': config.encoder_layers,
  }


def _parse_config(config: dict[str, Any], path: Path) -> whisper.WhisperConfig:
  for key, value in _SUPPORTED_VALUES.items():
    if config.get(key) != value:
      raise ValueError(f'{path}: {key} is {config.get(key)!r}, not {value!r}')
  sizes = {name: config.get(name) for name in whisper.FILE_SIZES}
  return _make_config(path, **sizes)


def _infer_config(
  tensors: Mapping[str, Tensor], num_heads: int, source: Path
) -> whisper.WhisperConfig:
  """Infer the configuration from the shapes of the tensors."""
  try:
    return _make_config(
      source,
      num_mel_bins=tensors['conv1.weight'].shape[1],
      d_model=tensors['conv1.weight'].shape[0],
      encoder_layers=sum(name.endswith('.fc1.bias') for name in tensors),
      encoder_attention_heads=num_heads,
      encoder_ffn_dim=tensors['layers.0.fc1.bias'].shape[0],
      max_source_positions=tensors['embed_positions.weight'].shape[0],
    )
  except (KeyError, IndexError) as error:
    raise ValueError(f'{source}: not a Whisper encoder ({error})') from None


def _make_config(source: Path, **fields) -> whisper.WhisperConfig:
  try:
    return whisper.WhisperConfig(**fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{source}: {error}') from None
