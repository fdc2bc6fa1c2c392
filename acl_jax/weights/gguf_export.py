# SPDX-License-Identifier: Apache-2.0
"""A Llama or one of its siblings as GGUF: its metadata and its tensors."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from acl_jax.models.llama import LlamaConfig
from acl_jax.models.rope import RopeScaling
from acl_jax.weights import gguf, table
from acl_jax.weights.configuration import llama_axis_sizes
from acl_jax.weights.gguf_file import Kind
from acl_jax.weights.gguf_rope import ROPE_FACTORS, llama3_factors
from acl_jax.weights.gguf_write import Stored, choose_kind
from acl_jax.weights.llama import Source, rows_in_use
from acl_jax.weights.tensor import Tensor

# To llama.cpp a Mistral without a window is a Llama.
ARCHITECTURES = {'mistral': 'llama'}


def describe_llama(config: LlamaConfig) -> dict[str, Any]:
  """Return the metadata of a model.

  ValueError for what llama.cpp does not compute, by the name of our field.
  """
  name = ARCHITECTURES.get(config.model_type, config.model_type)
  attributes = {
    theirs: getattr(config, ours)
    for theirs, ours in gguf.FIELD_NAMES.items()
    if hasattr(config, ours)
  }
  attributes['attention.value_length'] = config.head_dim
  attributes['rope.dimension_count'] = config.head_dim
  attributes |= _describe_scaling(config)
  metadata = {f'{name}.{key}': value for key, value in attributes.items()}
  metadata = {'general.architecture': name} | metadata
  _check_readable(config, metadata)
  return metadata


def export_llama(source: Source, kind: Kind) -> list[Stored]:
  """Return the tensors of a model; they are not read yet.

  kind: of the matrices; vectors are float32.
  """
  config, sizes = source.config, llama_axis_sizes(source.config)
  table.check_tensors(source.rows, source.tensors, sizes, str(source.files[0]))
  rows = rows_in_use(gguf.llama_rows(config), config)
  tensors = [*table.convert_tensors(source.tensors, source.rows, rows, sizes)]
  tensors += _factors(config).items()
  return [Stored(n, t, choose_kind(t.shape, kind)) for n, t in tensors]


def _describe_scaling(config: LlamaConfig) -> dict[str, Any]:
  """Return the keys of scaled positions; factors are a tensor instead."""
  scaling = config.rope_scaling
  if scaling is None or scaling.kind not in ('linear', 'yarn'):
    return {}
  keys: dict[str, Any] = {
    'rope.scaling.type': scaling.kind,
    'rope.scaling.factor': float(config.rope.factor),
  }
  if scaling.kind == 'yarn':
    keys['rope.scaling.original_context_length'] = config.rope.original_positions
  return keys


def _factors(config: LlamaConfig) -> dict[str, Tensor]:
  """Return the tensor by which a Llama's frequencies are divided, if it has one."""
  scaling = config.rope_scaling
  if scaling is None or config.model_type not in ('llama', 'mistral'):
    return {}
  if scaling.kind == 'llama3':
    factors = llama3_factors(config, config.rope.factor, config.rope.original_positions)
  elif scaling.kind == 'longrope' and scaling.short_factor == scaling.long_factor:
    factors = np.array(scaling.short_factor)
  else:
    return {}
  return {ROPE_FACTORS: Tensor.from_array(factors.astype(np.float32))}


def _check_readable(config: LlamaConfig, metadata: dict[str, Any]) -> None:
  """Raise ValueError unless the metadata define the same computation as `config`."""
  other = Tensor.from_array(np.zeros(0))
  tensors = _factors(config)
  if not config.tie_word_embeddings:
    tensors['output.weight'] = other
  tensors |= {f'{i}': other for i in range(config.num_hidden_layers)}  # their number
  read, _ = gguf.parse_llama(metadata, tensors, Path('GGUF'))
  for field in dataclasses.fields(config):
    value, other = getattr(config, field.name), getattr(read, field.name)
    if field.name == 'rope_scaling' and value and other:
      value, other = _canonical(config), _canonical(read)
    if field.name != 'model_type' and value != other:
      value, other = _differences(value, other)
      raise ValueError(
        f'{field.name} = {value!r:.120} cannot be exported: in llama.cpp the'
        f' architecture {metadata["general.architecture"]} has {other!r:.120}'
      )


def _differences(value: Any, other: Any) -> tuple[Any, Any]:
  """Return of two ways of scaling RoPE only the fields in which they differ."""
  first, second = (
    {'rope_type': each.kind, **each.fields} if isinstance(each, RopeScaling) else each
    for each in (value, other)
  )
  if not (isinstance(first, dict) and isinstance(second, dict)):
    return first, second
  names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
  return {name: first.get(name) for name in names}, {
    name: second.get(name) for name in names
  }


def _canonical(config: LlamaConfig) -> RopeScaling | None:
  """Return the scaling with the values that absent fields stand for."""
  scaling = config.rope_scaling
  if scaling is None or scaling.kind not in ('linear', 'yarn', 'llama3'):
    return scaling
  changes: dict[str, Any] = {'factor': float(config.rope.factor)}
  if scaling.kind != 'linear':
    changes['original_max_position_embeddings'] = config.rope.original_positions
  if scaling.kind == 'yarn':
    fast, slow = scaling.beta_fast or 32.0, scaling.beta_slow or 1.0
    changes |= {'beta_fast': fast, 'beta_slow': slow, 'truncate': scaling.truncate}
    changes['truncate'] = None if scaling.truncate else scaling.truncate
  return dataclasses.replace(scaling, **changes)
