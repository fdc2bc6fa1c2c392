# SPDX-License-Identifier: Apache-2.0
"""Writes models of Transformers as GGUF, as llama.cpp's converter does."""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Kind = gguf.GGMLQuantizationType
INTERLEAVED = ('llama', 'mistral3', 'smollm3')


def write_gguf(
  path: Path, model: Any, architecture: str, kind: Kind = Kind.F32, **changes: Any
) -> Path:
  """Write a model; vectors stay in float32. `changes` are keys of the architecture."""
  config = model.config
  writer = gguf.GGUFWriter(path, architecture)
  for key, value in (_keys(config) | changes).items():
    _add(writer, f'{architecture}.{key}', value)
  writer.add_array('tokenizer.ggml.tokens', ['a', 'é'])
  for name, array in _tensors(model, architecture):
    dtype = kind if array.ndim == 2 else Kind.F32
    writer.add_tensor(name, gguf.quantize(array, dtype), raw_dtype=dtype)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def _keys(config: Any) -> dict[str, Any]:
  head_dim = getattr(config, 'head_dim', None)
  head_dim = head_dim or config.hidden_size // config.num_attention_heads
  rope = config.rope_parameters
  keys = {
    'block_count': config.num_hidden_layers,
    'context_length': config.max_position_embeddings,
    'embedding_length': config.hidden_size,
    'feed_forward_length': config.intermediate_size,
    'attention.head_count': config.num_attention_heads,
    'attention.head_count_kv': config.num_key_value_heads,
    'attention.key_length': head_dim,
    'attention.value_length': head_dim,
    'attention.layer_norm_rms_epsilon': config.rms_norm_eps,
    'rope.dimension_count': head_dim,
    'rope.freq_base': float(rope['rope_theta']),
  }
  if rope['rope_type'] in ('yarn', 'linear'):
    keys['rope.scaling.type'] = rope['rope_type']
    keys['rope.scaling.factor'] = rope['factor']
    if original := rope.get('original_max_position_embeddings'):
      keys['rope.scaling.original_context_length'] = original
  return keys


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
  if isinstance(value, bool):
    writer.add_bool(key, value)
  elif isinstance(value, int):
    writer.add_uint32(key, value)
  elif isinstance(value, float):
    writer.add_float32(key, value)
  elif isinstance(value, list):
    writer.add_array(key, value)
  elif value is not None:
    writer.add_string(key, value)


def _tensors(model: Any, architecture: str):
  config = model.config
  (arch,) = (k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
  names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
  heads = {'q_proj': config.num_attention_heads, 'k_proj': config.num_key_value_heads}
  for name, tensor in model.state_dict().items():
    if name == 'lm_head.weight' and config.tie_word_embeddings:
      continue
    array, part = tensor.numpy(), name.split('.')[-2]
    if architecture in INTERLEAVED and part in heads:
      pairs = array.reshape(heads[part], 2, -1, *array.shape[1:])
      array = pairs.swapaxes(1, 2).reshape(array.shape)
    yield names.get_name(name, try_suffixes=('.weight', '.bias')), array
  if config.rope_parameters['rope_type'] == 'llama3':
    yield 'rope_freqs.weight', llama3_factors(config)


def llama3_factors(config: Any) -> np.ndarray:
  """Return what frequencies are divided by, one after the other."""
  rope, factors = config.rope_parameters, []
  low, high = rope['low_freq_factor'], rope['high_freq_factor']
  for i in range(0, config.head_dim, 2):
    wavelength = 2 * math.pi * rope['rope_theta'] ** (i / config.head_dim)
    turns = rope['original_max_position_embeddings'] / wavelength
    smooth = (turns - low) / (high - low)
    if turns > high:
      factors.append(1.0)
    elif turns < low:
      factors.append(rope['factor'])
    else:
      factors.append(1 / ((1 - smooth) / rope['factor'] + smooth))
  return np.array(factors, np.float32)
