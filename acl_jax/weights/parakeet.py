# SPDX-License-Identifier: Apache-2.0
"""Loads and saves a Conformer as a Parakeet encoder or CTC model of Transformers."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.weights import safetensors, table
from acl_jax.weights.configuration import coerce_field_types, select_attributes
from acl_jax.weights.exported import read_submodel
from acl_jax.weights.harmless import is_harmless
from acl_jax.weights.parakeet_table import axis_sizes, make_rows
from acl_jax.weights.table import Names
from acl_jax.weights.tensor import Tensor

CONFIG = 'config.json'
ENCODER, CTC = 'parakeet_encoder', 'parakeet_ctc'  # values of model_type
_COUNTER = '.conv.norm.num_batches_tracked'  # written by PyTorch; not used
FIELD_NAMES = {field.name: field.name for field in dataclasses.fields(ConformerConfig)}
del FIELD_NAMES['attention_context']  # not in Transformers
SUPPORTED_VALUES = {
  'model_type': (ENCODER,),
  'hidden_act': ('silu',),
  'subsampling_conv_kernel_size': (3,),
  'subsampling_conv_stride': (2,),
}
# fmt: off
IGNORED = (
  '_name_or_path', 'architectures', 'transformers_version', 'dtype', 'torch_dtype',
  'initializer_range', 'num_key_value_heads', 'layerdrop', 'dropout_positions',
  'activation_dropout', 'attention_dropout',  # used in training; ours has one dropout
  'return_dict', 'output_hidden_states', 'output_attentions', 'is_encoder_decoder',
  'chunk_size_feed_forward', 'id2label', 'label2id', 'problem_type',
)
# fmt: on


def load_conformer(
  folder: str | Path, dtype: DTypeLike = jnp.float32
) -> Conformer | ConformerCTC:
  """Load an encoder, and its CTC head if it has one.

  folder: holds `config.json` and safetensors.
  """
  folder = Path(folder)
  path = folder / CONFIG
  config_json, tensors = read_submodel(folder, 'audio_config', 'audio_tower.', _COUNTER)
  model_type, vocab_size = config_json.get('model_type'), 0
  if model_type not in (ENCODER, CTC):
    raise ValueError(f'{path}: model_type is {model_type!r}, not {ENCODER} or {CTC}')
  if model_type == CTC:
    vocab_size = _parse_vocab_size(config_json, path)
    config_json = config_json.get('encoder_config')
    if not isinstance(config_json, dict):
      raise ValueError(f'{path}: encoder_config is not a JSON object')
  config = _parse_config(config_json, path)
  model = jax.eval_shape(lambda: _make_model(config, vocab_size))
  return table.import_tensors(
    model,
    make_rows(config, vocab_size),
    tensors,
    axis_sizes(config, vocab_size),
    source=str(folder),
    dtype=jnp.dtype(dtype),
  )


def save_conformer(model: Conformer | ConformerCTC, folder: str | Path) -> None:
  """Write a folder that `load_conformer` and Transformers read."""
  folder, config_json = Path(folder), json.dumps(describe_conformer(model), indent=2)
  folder.mkdir(parents=True, exist_ok=True)
  safetensors.write(folder, export_conformer(model))
  (folder / CONFIG).write_text(config_json + '\n')


def export_conformer(model: Conformer | ConformerCTC) -> Iterator[tuple[str, Tensor]]:
  """Yield the tensors under Transformers' names."""
  config, vocab_size = model.config, _head_size(model)
  rows = make_rows(config, vocab_size)
  yield from table.export_tensors(model, rows, axis_sizes(config, vocab_size))
  prefix = 'encoder.layers' if vocab_size else 'layers'
  for i in range(config.num_hidden_layers):
    yield f'{prefix}.{i}{_COUNTER}', Tensor.from_array(np.zeros((), np.int64))


def conformer_names(model: Conformer) -> Names:
  """Return the names of an encoder's parameters in Transformers."""
  return Names(make_rows(model.config, 0), axis_sizes(model.config, 0))


def describe_conformer(model: Conformer | ConformerCTC) -> dict[str, Any]:
  """Return the `config.json`; ValueError if Transformers has no such model."""
  if (context := model.config.attention_context) is not None:
    raise ValueError(
      f'attention_context = {context} cannot be exported; the Parakeet of Transformers'
      ' has unlimited context only'
    )
  return _describe(model.config, _head_size(model))


def _head_size(model: Conformer | ConformerCTC) -> int:
  return model.ctc_head.weight.shape[1] if isinstance(model, ConformerCTC) else 0


def _make_model(config: ConformerConfig, vocab_size: int) -> Conformer | ConformerCTC:
  rngs = nnx.Rngs(0)
  if vocab_size:
    return ConformerCTC(config, vocab_size, rngs=rngs)
  return Conformer(config, rngs=rngs)


def _parse_vocab_size(config: dict[str, Any], path: Path) -> int:
  size, blank = config.get('vocab_size'), config.get('pad_token_id')
  if type(size) is not int or size < 2:
    raise ValueError(
      f'{path}: vocab_size = {size!r:.60} must be an integer of 2 or more'
    )
  if blank != size - 1:
    raise ValueError(
      f'{path}: pad_token_id = {blank!r:.60}; the blank must be the last class,'
      f' {size - 1}'
    )
  return size


def _parse_config(config: dict[str, Any], path: Path) -> ConformerConfig:
  fields = select_attributes(
    {'model_type': ENCODER, **config},
    field_names=FIELD_NAMES,
    supported_values=SUPPORTED_VALUES,
    ignored=IGNORED,
    source=path,
    is_harmless=is_harmless,
  )
  fields = coerce_field_types(fields, ConformerConfig, source=path)
  try:
    return ConformerConfig(**fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path}: {error}') from None


def _describe(config: ConformerConfig, vocab_size: int) -> dict[str, Any]:
  fields = dataclasses.asdict(config)
  del fields['attention_context']
  encoder = {key: values[0] for key, values in SUPPORTED_VALUES.items()} | fields
  encoder |= {
    'activation_dropout': config.dropout,
    'attention_dropout': config.dropout,
    'layerdrop': 0.0,
    'dropout_positions': 0.0,
  }
  if not vocab_size:
    return {'architectures': ['ParakeetEncoder'], **encoder}
  return {
    'architectures': ['ParakeetForCTC'],
    'model_type': CTC,
    'vocab_size': vocab_size,
    'pad_token_id': vocab_size - 1,
    'encoder_config': encoder,
  }
