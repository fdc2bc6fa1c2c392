# SPDX-License-Identifier: Apache-2.0
"""The adapter as an exported folder has it: `multi_modal_projector.`.

The names of the stride adapter are Ultravox's.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.models.spelling import MAX_TOKEN_LETTERS, NUM_BUCKETS, NUM_LETTERS
from acl_jax.weights import safetensors, table
from acl_jax.weights.configuration import typed
from acl_jax.weights.exported import CONFIG, open_part, read_config
from acl_jax.weights.table import Row, Tensor

PREFIX = 'multi_modal_projector.'
# i, d, m, e are widths from the encoder's to the LLM's.
LINEAR = (('linear.weight', 'linear', 'e i -> i e'),)
SWIGLU = (
  ('ln_pre.weight', 'ln_pre', 'i -> i'),
  ('linear_1.weight', 'linear_1', 'd i -> i d'),
  ('ln_mid.weight', 'ln_mid', 'm -> m'),
  ('linear_2.weight', 'linear_2', 'e m -> m e'),
)
# i to h, then j to d, are the widths of letters and of tokens; s is h or d, w a kernel,
# u one, a the letters and a blank, c the vocabulary, b that and a blank, k of spelling.
_BLOCK = (
  ('conv_norm.weight', 'conv_norm', '{0} -> {0}'),
  ('conv.weight', 'conv', '{0} u w -> w (u {0})'),
  ('mlp_norm.weight', 'mlp_norm', '{0} -> {0}'),
  ('gate_proj.weight', 'gate_proj', '{1} {0} -> {0} {1}'),
  ('up_proj.weight', 'up_proj', '{1} {0} -> {0} {1}'),
  ('down_proj.weight', 'down_proj', '{1} {0} -> {0} {1}'),
)
LETTERS = (
  ('norm_pre.weight', 'norm_pre', 'i -> i'),
  ('linear_1.weight', 'linear_1', 'h i -> i h'),
  *(
    (f'letter_layers.{{r}}.{name}', f'letter_layers/{path}', layout.format('h', 'g'))
    for name, path, layout in _BLOCK
  ),
  ('norm_letters.weight', 'norm_letters', 'h -> h'),
  ('letter_head.weight', 'letter_head', 'a h -> h a'),
  ('letter_embed.weight', 'letter_embed', 'a h -> a h'),
)
TOKENS = (
  ('norm_mid.weight', 'norm_mid', 'j -> j'),
  ('linear_mid.weight', 'linear_mid', 'd j -> j d'),
  *(
    (f'layers.{{}}.{name}', f'layers/{path}', layout.format('d', 'f'))
    for name, path, layout in _BLOCK
  ),
  ('norm_post.weight', 'norm_post', 'd -> d'),
  ('linear_2.weight', 'linear_2', 'e d -> d e'),
  ('spelling.buckets.weight', 'spelling/buckets', 'n k -> n k'),
  ('spelling.letters', 'spelling/letters', 'c o -> c o'),
  ('linear_spelling.weight', 'linear_spelling', 'k d -> d k'),
  ('blank', 'blank', 'e -> e'),
  ('bias', 'bias', 'b -> b'),
  ('vocabulary', 'vocabulary', 'c -> c'),
)


def export_projector(
  adapter: CTCAdapter | StrideAdapter,
) -> Iterator[tuple[str, Tensor]]:
  """Its tensors by Transformers' names."""
  rows, sizes = _rows(adapter.config), _sizes(adapter.config)
  for name, tensor in table.export(adapter, rows, sizes):
    yield PREFIX + name, tensor


def describe_projector(adapter: CTCAdapter | StrideAdapter) -> dict[str, Any]:
  """What `config.json` says of it."""
  config = adapter.config
  if isinstance(config, StrideAdapterConfig):
    # Two of these have but one value here; engines that know Ultravox ask for them.
    how = {'projector_act': 'swiglu', 'projector_ln_mid': True}
    how = how if config.hidden_size else {}
    return {'stack_factor': config.stack, 'hidden_size': config.hidden_size, **how}
  sizes = dataclasses.asdict(config)
  outside = {name: sizes.pop(name) for name in ('stack', 'encoder_size', 'llm_size')}
  return {'stack_factor': outside['stack'], 'ctc': sizes}


def load_projector(folder: Path) -> CTCAdapter | StrideAdapter:
  """The adapter of an exported folder, in float32."""
  found, source = read_config(folder), folder / CONFIG
  for path in safetensors.files(folder):
    safetensors.check(path)
  _, tensors = open_part(folder, 'audio_config', PREFIX)
  audio, llm = found['audio_config'], found['text_config']
  widths = {
    'stack': found.get('stack_factor'),
    'encoder_size': audio.get('d_model', audio.get('hidden_size')),
    'llm_size': llm.get('hidden_size'),
  }
  make, configure, sizes = StrideAdapter, StrideAdapterConfig, {'hidden_size': None}
  if isinstance(found.get('ctc'), dict):
    make, configure, sizes = CTCAdapter, CTCAdapterConfig, found['ctc']
  elif found.get('hidden_size') is not None:
    sizes = {'hidden_size': found['hidden_size']}
  try:
    config: Any = configure(**typed(sizes | widths, configure, source=source))
  except (TypeError, ValueError) as error:
    raise ValueError(f'{source}: no adapter that we know: {error}') from None
  return table.fill(
    jax.eval_shape(lambda: make(config, rngs=nnx.Rngs(0))),
    _rows(config),
    tensors,
    _sizes(config),
    source=str(folder),
    dtype='float32',
  )


def _rows(config: CTCAdapterConfig | StrideAdapterConfig) -> tuple[Row, ...]:
  if isinstance(config, StrideAdapterConfig):
    return SWIGLU if config.hidden_size else LINEAR
  return LETTERS + TOKENS if config.letter_layers else TOKENS


def _sizes(config: CTCAdapterConfig | StrideAdapterConfig) -> dict[str, int]:
  inputs = config.stack * config.encoder_size
  if isinstance(config, StrideAdapterConfig):
    hidden = config.hidden_size or 0
    return {'i': inputs, 'd': hidden, 'm': hidden // 2, 'e': config.llm_size, 'l': 0}
  h, d, c = config.letter_hidden_size, config.hidden_size, config.vocabulary_size
  return {
    **{'i': inputs // 2, 'h': h, 'g': h, 'r': config.letter_layers},
    **{'j': 2 * h if config.letter_layers else inputs, 'd': d, 'f': d},
    **{'l': config.num_layers, 'w': config.kernel_size, 'u': 1, 'e': config.llm_size},
    **{'a': 1 + NUM_LETTERS, 'c': c, 'b': c + 1, 'k': config.spelling_size},
    **{'n': NUM_BUCKETS, 'o': MAX_TOKEN_LETTERS},
  }
