# SPDX-License-Identifier: Apache-2.0
"""Loads and exports the adapter of an exported folder: `multi_modal_projector.`.

The tensor names of the stride adapter are those of Ultravox.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from acl_jax.models.adapters import StrideAdapterConfig
from acl_jax.models.attention_adapter import AttentionAdapterConfig
from acl_jax.models.ctc import CTCAdapterConfig
from acl_jax.models.protocols import Adapter
from acl_jax.models.spelling import MAX_TOKEN_LETTERS, NUM_BUCKETS, NUM_LETTERS
from acl_jax.weights import safetensors, table
from acl_jax.weights.adapter import KINDS
from acl_jax.weights.configuration import coerce_field_types
from acl_jax.weights.exported import CONFIG, read_exported_config, read_submodel
from acl_jax.weights.table import Row
from acl_jax.weights.tensor import Tensor
from acl_jax.weights.whisper_decoder import DECODER, decoder_axis_sizes

AnyAdapterConfig = AttentionAdapterConfig | CTCAdapterConfig | StrideAdapterConfig

PREFIX = 'multi_modal_projector.'
# Axes: i stacked encoder frame, d hidden, m = d / 2, e LLM.
LINEAR = (('linear.weight', 'linear', 'e i -> i e'),)
SWIGLU = (
  ('ln_pre.weight', 'ln_pre', 'i -> i'),
  ('linear_1.weight', 'linear_1', 'd i -> i d'),
  ('ln_mid.weight', 'ln_mid', 'm -> m'),
  ('linear_2.weight', 'linear_2', 'e m -> m e'),
)
# Axes: i input, h = g hidden of the letter layers; j input, d = f hidden of the token
# layers; w kernel; u = 1; a letters and blank; c vocabulary, b vocabulary and blank;
# k spelling, n its buckets, o letters of a token; e LLM.


def _block_rows(prefix: str, path: str, d: str, f: str) -> list[Row]:
  """Return the rows of a stack of blocks; d, f are the letters of its axes."""
  return [
    (f'{prefix}.conv_norm.weight', f'{path}/conv_norm', f'{d} -> {d}'),
    (f'{prefix}.conv.weight', f'{path}/conv', f'{d} u w -> w (u {d})'),
    (f'{prefix}.mlp_norm.weight', f'{path}/mlp_norm', f'{d} -> {d}'),
    (f'{prefix}.gate_proj.weight', f'{path}/gate_proj', f'{f} {d} -> {d} {f}'),
    (f'{prefix}.up_proj.weight', f'{path}/up_proj', f'{f} {d} -> {d} {f}'),
    (f'{prefix}.down_proj.weight', f'{path}/down_proj', f'{f} {d} -> {d} {f}'),
  ]


LETTERS = (
  ('norm_pre.weight', 'norm_pre', 'i -> i'),
  ('linear_1.weight', 'linear_1', 'h i -> i h'),
  *_block_rows('letter_layers.{r}', 'letter_layers', 'h', 'g'),
  ('norm_letters.weight', 'norm_letters', 'h -> h'),
  ('letter_head.weight', 'letter_head', 'a h -> h a'),
  ('letter_embed.weight', 'letter_embed', 'a h -> a h'),
)
TOKENS = (
  ('norm_mid.weight', 'norm_mid', 'j -> j'),
  ('linear_mid.weight', 'linear_mid', 'd j -> j d'),
  *_block_rows('layers.{}', 'layers', 'd', 'f'),
  ('norm_post.weight', 'norm_post', 'd -> d'),
  ('linear_2.weight', 'linear_2', 'e d -> d e'),
  ('spelling.buckets.weight', 'spelling/buckets', 'n k -> n k'),
  ('spelling.letters', 'spelling/letters', 'c o -> c o'),
  ('linear_spelling.weight', 'linear_spelling', 'k d -> d k'),
  ('blank', 'blank', 'e -> e'),
  ('bias', 'bias', 'b -> b'),
  ('vocabulary', 'vocabulary', 'c -> c'),
)


# Axes, besides those of `DECODER`: q start, c classes, v vocabulary, o LLM, u = 1.
ATTENTION = (
  *[(f'decoder.{name}', f'decoder/{path}', layout) for name, path, layout in DECODER],
  ('embed_start', 'embed_start', 'q d -> q d'),
  ('embed_tokens.weight', 'embed_tokens', 'c d -> c d'),
  ('gate', 'gate', 'd -> d'),
  ('gate_bias', 'gate_bias', 'u -> u'),
  ('log_temperature', 'log_temperature', 'u -> u'),
  ('linear.weight', 'linear', 'o d -> d o'),
  ('vocabulary', 'vocabulary', 'v -> v'),
)


def export_projector(adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
  """Yield the tensors under Transformers' names."""
  assert isinstance(adapter, nnx.Module)
  rows, sizes = _rows(adapter.config), _axis_sizes(adapter.config)
  for name, tensor in table.export_tensors(adapter, rows, sizes):
    yield PREFIX + name, tensor


def describe_projector(adapter: Adapter) -> dict[str, Any]:
  """Return the entries of `config.json` that describe the adapter."""
  config = adapter.config
  if isinstance(config, StrideAdapterConfig):
    entries = {'stack_factor': config.stack, 'hidden_size': config.hidden_size}
    if config.hidden_size:  # constant here; engines that support Ultravox require them
      entries |= {'projector_act': 'swiglu', 'projector_ln_mid': True}
    return entries
  fields = dataclasses.asdict(config)
  for name in ('stack', 'encoder_size', 'llm_size'):  # stored beside these
    del fields[name]
  return {'stack_factor': config.stack, adapter.kind: fields}


def load_projector(folder: Path) -> Adapter:
  """Load the adapter of an exported folder, in float32.

  Raises ValueError if a checksum, the configuration or the tensors are wrong.
  """
  config_json, source = read_exported_config(folder), folder / CONFIG
  for path in safetensors.weight_files(folder):
    safetensors.verify_checksum(path)
  _, tensors = read_submodel(folder, 'audio_config', PREFIX)
  kinds = [kind for kind in KINDS if isinstance(config_json.get(kind), dict)]
  kind = kinds[0] if kinds else 'stride'
  adapter_class, config_class = KINDS[kind]
  fields = config_json.get(kind, {'hidden_size': config_json.get('hidden_size')})
  audio, llm = config_json['audio_config'], config_json['text_config']
  fields = fields | {
    'stack': config_json.get('stack_factor'),
    'encoder_size': audio.get('d_model', audio.get('hidden_size')),
    'llm_size': llm.get('hidden_size'),
  }
  try:
    fields = coerce_field_types(fields, config_class, source=source)
    config: Any = config_class(**fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{source}: the adapter is not valid: {error}') from None
  return table.import_tensors(
    jax.eval_shape(lambda: adapter_class(config, rngs=nnx.Rngs(0))),
    _rows(config),
    tensors,
    _axis_sizes(config),
    source=str(folder),
    dtype='float32',
  )


def _rows(config: AnyAdapterConfig) -> tuple[Row, ...]:
  if isinstance(config, AttentionAdapterConfig):
    return ATTENTION
  if isinstance(config, StrideAdapterConfig):
    return SWIGLU if config.hidden_size else LINEAR
  return LETTERS + TOKENS if config.letter_layers else TOKENS


def _axis_sizes(config: AnyAdapterConfig) -> dict[str, int]:
  if isinstance(config, AttentionAdapterConfig):
    return decoder_axis_sizes(config, config.encoder_size) | {
      'q': config.start_length,
      'c': config.vocabulary_size + 1,
      'v': config.vocabulary_size,
      'o': config.llm_size,
      'u': 1,
    }
  input_size = config.stack * config.encoder_size
  if isinstance(config, StrideAdapterConfig):
    d = config.hidden_size or 0
    return {'i': input_size, 'd': d, 'm': d // 2, 'e': config.llm_size, 'l': 0}
  return {
    'i': input_size // 2,
    'h': config.letter_hidden_size,
    'g': config.letter_hidden_size,
    'r': config.letter_layers,
    'j': 2 * config.letter_hidden_size if config.letter_layers else input_size,
    'd': config.hidden_size,
    'f': config.hidden_size,
    'l': config.num_layers,
    'w': config.kernel_size,
    'u': 1,
    'e': config.llm_size,
    'a': 1 + NUM_LETTERS,
    'c': config.vocabulary_size,
    'b': config.vocabulary_size + 1,
    'k': config.spelling_size,
    'n': NUM_BUCKETS,
    'o': MAX_TOKEN_LETTERS,
  }
