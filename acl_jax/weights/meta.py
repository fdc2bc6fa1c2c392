# SPDX-License-Identifier: Apache-2.0
"""Reads a Llama in Meta's format: `params.json` and `consolidated.*.pth` shards."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acl_jax.models import llama
from acl_jax.models.rope import RopeScaling
from acl_jax.runtime.files import read_json
from acl_jax.weights import torch_file
from acl_jax.weights.configuration import (
  llama_axis_sizes,
  make_llama_config,
  select_attributes,
)
from acl_jax.weights.table import tensor_shape
from acl_jax.weights.tensor import Tensor

# RoPE rotates rows (2i, 2i + 1) of q and k in the file, rows (i, i + h/2) in the model.
LLAMA = (
  ('tok_embeddings.weight', 'embed_tokens', 'v d -> v d'),
  ('layers.{}.attention_norm.weight', 'layers/input_layernorm', 'd -> d'),
  (
    'layers.{}.attention.wq.weight',
    'layers/self_attn/q_proj',
    '(n i c) d -> d n (c i)',
  ),
  (
    'layers.{}.attention.wk.weight',
    'layers/self_attn/k_proj',
    '(k i c) d -> d k (c i)',
  ),
  ('layers.{}.attention.wv.weight', 'layers/self_attn/v_proj', '(k h) d -> d k h'),
  ('layers.{}.attention.wo.weight', 'layers/self_attn/o_proj', 'd (n h) -> n h d'),
  ('layers.{}.ffn_norm.weight', 'layers/post_attention_layernorm', 'd -> d'),
  ('layers.{}.feed_forward.w1.weight', 'layers/mlp/gate_proj', 'f d -> d f'),
  ('layers.{}.feed_forward.w3.weight', 'layers/mlp/up_proj', 'f d -> d f'),
  ('layers.{}.feed_forward.w2.weight', 'layers/mlp/down_proj', 'd f -> f d'),
  ('norm.weight', 'norm', 'd -> d'),
  ('output.weight', 'lm_head', 'v d -> d v'),
)

CONFIG = 'params.json'
FIELD_NAMES = {
  'dim': 'hidden_size',
  'n_layers': 'num_hidden_layers',
  'n_heads': 'num_attention_heads',
  'n_kv_heads': 'num_key_value_heads',
  'norm_eps': 'rms_norm_eps',
  'rope_theta': 'rope_theta',
  'vocab_size': 'vocab_size',
  'max_seq_len': 'max_position_embeddings',
  'multiple_of': 'multiple_of',
  'ffn_dim_multiplier': 'ffn_dim_multiplier',
}
DEFAULTS = {  # of Meta's code
  'multiple_of': 256,
  'rms_norm_eps': 1e-5,
  'rope_theta': 10_000.0,
}
SUPPORTED_VALUES = {'use_scaled_rope': (False, True)}
IGNORED = ('max_batch_size',)
# No file gives the positions of training: 4096 of Llama-2, and by `rope_theta` those of
# Code Llama and Llama-3. `use_scaled_rope` scales the latter.
POSITIONS = {1_000_000.0: 16_384, 500_000.0: 8192}
LLAMA_3_POSITIONS, LONG_POSITIONS = 8192, 131_072
# Hidden size and layers of Llama-3.2 1B and 3B, whose factor is 32 where it is 8 in
# Llama-3.1: their files differ in nothing else.
LLAMA_3_2 = ((2048, 16), (3072, 28))


def read_llama(folder: Path) -> tuple[llama.LlamaConfig, dict[str, Tensor]]:
  """Return the configuration and the merged tensors of a Llama; not read yet."""
  names = sorted(path.name for path in folder.glob('consolidated.*.pth'))
  expected = [f'consolidated.{i:02}.pth' for i in range(len(names) or 1)]
  if missing := sorted(set(expected) - set(names)):
    raise FileNotFoundError(f'{folder / missing[0]} is missing')
  shards = [torch_file.read(folder / name) for name in expected]
  for shard, name in zip(shards, expected, strict=True):
    shard.pop('rope.freqs', None)  # RoPE frequencies, which our model computes
    if unmatched := sorted(shard.keys() ^ shards[0].keys()):
      raise ValueError(f'{folder / name}: {unmatched[0]} is not in every shard')
  config = _read_config(folder / CONFIG, shards)
  sizes = llama_axis_sizes(config)
  shapes = {name: tensor_shape(layout, sizes) for name, _, layout in LLAMA}
  tensors = {}
  for name in shards[0]:
    shape = shapes.get(re.sub(r'(?<=^layers\.)\d+', '{}', name))
    parts = [shard[name] for shard in shards]
    tensors[name] = _merge(parts, shape, f'{folder}: {name}') if shape else parts[0]
  return config, tensors


def _merge(parts: Sequence[Tensor], shape: tuple[int, ...], what: str) -> Tensor:
  """Merge the shards of a tensor; their shape shows along which axis it is sharded."""
  part_shape = parts[0].shape
  if any(part.shape != part_shape for part in parts):
    raise ValueError(f'{what} has shards of different shapes')
  if part_shape == shape:

    def read() -> np.ndarray:
      copies = [part.read() for part in parts]
      if any(not np.array_equal(copies[0], copy) for copy in copies[1:]):
        raise ValueError(f'{what} differs between shards')
      return copies[0]

    return Tensor(shape, read)
  axes = [
    axis
    for axis, n in enumerate(part_shape)
    if (*part_shape[:axis], n * len(parts), *part_shape[axis + 1 :]) == shape
  ]
  if not axes:
    raise ValueError(
      f'{what}: {len(parts)} shards of shape {part_shape} do not add up to {shape}'
    )
  return Tensor(shape, lambda: np.concatenate([part.read() for part in parts], axes[0]))


def _read_config(path: Path, shards: Sequence[dict[str, Tensor]]) -> llama.LlamaConfig:
  config = read_json(path)
  fields = select_attributes(
    config,
    field_names=FIELD_NAMES,
    supported_values=SUPPORTED_VALUES,
    ignored=IGNORED,
    source=path,
  )
  fields = DEFAULTS | fields
  if fields.get('vocab_size', -1) == -1 and 'output.weight' in shards[0]:
    # Llama-2's file has -1: the tokenizer decides. The output is sharded along it.
    fields['vocab_size'] = sum(shard['output.weight'].shape[0] for shard in shards)
  fields['intermediate_size'] = _feed_forward_size(
    fields.get('hidden_size'),
    fields.pop('multiple_of'),
    fields.pop('ffn_dim_multiplier', 1),
    path,
  )
  fields['tie_word_embeddings'] = False
  if config.get('use_scaled_rope'):
    return _scale_rope({'max_position_embeddings': LONG_POSITIONS} | fields, path)
  theta = fields['rope_theta']
  positions = POSITIONS.get(theta, 4096) if isinstance(theta, int | float) else 4096
  return make_llama_config({'max_position_embeddings': positions} | fields, source=path)


def _scale_rope(fields: dict[str, Any], path: Path) -> llama.LlamaConfig:
  """Return the configuration of a Llama-3.1 or later, with Meta's constants."""
  config = make_llama_config(fields, source=path)
  small = (config.hidden_size, config.num_hidden_layers) in LLAMA_3_2
  scaling = RopeScaling(
    'llama3',
    factor=32.0 if small else 8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=LLAMA_3_POSITIONS,
  )
  return dataclasses.replace(config, rope_scaling=scaling)


def _feed_forward_size(width: Any, multiple: Any, factor: Any, path: Path) -> int:
  """Return 2/3 of 4 d, scaled and rounded up to a multiple, as in Meta's code."""
  integers = isinstance(width, int) and isinstance(multiple, int) and multiple > 0
  if not integers or not isinstance(factor, (int, float)) or not 0 < factor < 100:
    raise ValueError(
      f'{path}: dim = {width!r:.20}, multiple_of = {multiple!r:.20} and'
      f' ffn_dim_multiplier = {factor!r:.20} do not define a feed-forward size'
    )
  return -(-int(factor * int(8 * width / 3)) // multiple) * multiple
