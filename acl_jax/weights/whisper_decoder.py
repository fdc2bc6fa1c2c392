# SPDX-License-Identifier: Apache-2.0
"""Loads Whisper's decoder, which writes an LLM's tokens, as an attention adapter."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from acl_jax.models.attention_adapter import AttentionAdapter, AttentionAdapterConfig
from acl_jax.models.attention_decoder import AttentionDecoder, DecoderConfig
from acl_jax.weights import table
from acl_jax.weights.ctranslate2 import read_ctranslate2
from acl_jax.weights.exported import read_submodel
from acl_jax.weights.tensor import Tensor

# Axes: d, e decoder width; s width of what attention attends to; f feed-forward;
# p positions.
_ATTENTION = (
  ('q_proj.weight', 'q_proj/weight', 'e d -> d e'),
  ('q_proj.bias', 'q_proj/bias', 'd -> d'),
  ('k_proj.weight', 'k_proj/weight', 'e s -> s e'),
  ('v_proj.weight', 'v_proj/weight', 'e s -> s e'),
  ('v_proj.bias', 'v_proj/bias', 'd -> d'),
  ('out_proj.weight', 'out_proj/weight', 'e d -> d e'),
  ('out_proj.bias', 'out_proj/bias', 'd -> d'),
)
_KINDS = ('weight', 'bias')
_NORMS = ('self_attn_layer_norm', 'encoder_attn_layer_norm', 'final_layer_norm')
_LAYER = (
  *[
    (f'self_attn.{name}', f'self_attn/{path}', layout.replace('s', 'd'))
    for name, path, layout in _ATTENTION
  ],
  *[
    (f'encoder_attn.{name}', f'encoder_attn/{path}', layout)
    for name, path, layout in _ATTENTION
  ],
  *[(f'{n}.{kind}', f'{n}/{kind}', 'd -> d') for n in _NORMS for kind in _KINDS],
  ('fc1.weight', 'fc1/weight', 'f d -> d f'),
  ('fc1.bias', 'fc1/bias', 'f -> f'),
  ('fc2.weight', 'fc2/weight', 'd f -> f d'),
  ('fc2.bias', 'fc2/bias', 'd -> d'),
)
DECODER = (
  ('embed_positions.weight', 'embed_positions', 'p d -> p d'),
  *[(f'layers.{{}}.{name}', f'layers/{path}', layout) for name, path, layout in _LAYER],
  ('layer_norm.weight', 'layer_norm/weight', 'd -> d'),
  ('layer_norm.bias', 'layer_norm/bias', 'd -> d'),
)


class Spelling(NamedTuple):
  """Whisper's pieces that start and end a transcript, and the piece of each token."""

  start: tuple[int, ...]
  end: int
  tokens: list[int]


def rehead_decoder(
  folder: Path,
  stack: int,
  encoder_size: int,
  llm_size: int,
  vocabulary: Sequence[int],
  spelling: Spelling,
) -> AttentionAdapter:
  """Return an adapter that starts as Whisper's decoder, writing an LLM's tokens.

  folder: holds a Whisper of Hugging Face or CTranslate2. spelling: of each token of
  `vocabulary`.
  """
  sizes, tensors = _read(folder)
  if encoder_size != sizes.d_model:
    raise ValueError(
      f'{folder}: the decoder attends to frames of width {sizes.d_model}; those of the'
      f' encoder have {encoder_size}'
    )
  rows = np.asarray(tensors.pop('embed_tokens.weight').read(), np.float32)
  config = AttentionAdapterConfig(
    **dataclasses.asdict(sizes),
    stack=stack,
    encoder_size=encoder_size,
    start_length=len(spelling.start),
    llm_size=llm_size,
    vocabulary_size=len(vocabulary),
  )
  adapter = AttentionAdapter(config, rngs=nnx.Rngs(0))
  adapter.decoder = _import_decoder(sizes, tensors, str(folder))
  adapter.embed_start[...] = jnp.asarray(rows[list(spelling.start)])
  adapter.embed_tokens[...] = jnp.asarray(rows[[spelling.end, *spelling.tokens]])
  adapter.vocabulary[...] = jnp.asarray(np.asarray(vocabulary, np.int32))
  return adapter


def read_decoder_sizes(folder: Path) -> DecoderConfig:
  """Return the sizes of the decoder of a Whisper, as `rehead_decoder` takes it."""
  return _read(folder)[0]


def _read(folder: Path) -> tuple[DecoderConfig, dict[str, Tensor]]:
  """Return the sizes of a decoder, and its tensors by Hugging Face's names."""
  if (folder / 'model.bin').is_file():
    tensors, num_heads = read_ctranslate2(folder / 'model.bin', 'decoder/')
  elif (folder / 'config.json').is_file():
    config, tensors = read_submodel(folder, 'audio_config', 'audio_tower.')
    num_heads = config.get('decoder_attention_heads')
    tensors = {
      name.removeprefix('model.').removeprefix('decoder.'): tensor
      for name, tensor in tensors.items()
      if name.removeprefix('model.').startswith('decoder.')
    }
  else:
    raise FileNotFoundError(f'{folder} has neither config.json nor model.bin')
  return _infer_sizes(tensors, num_heads, folder), tensors


def _infer_sizes(
  tensors: Mapping[str, Tensor], num_heads: object, source: Path
) -> DecoderConfig:
  """Infer the sizes from the shapes of the tensors."""
  try:
    return DecoderConfig(
      d_model=tensors['embed_tokens.weight'].shape[1],
      decoder_layers=sum(name.endswith('.fc1.bias') for name in tensors),
      decoder_attention_heads=num_heads,  # type: ignore[arg-type]  # checked by the class
      decoder_ffn_dim=tensors['layers.0.fc1.bias'].shape[0],
      max_target_positions=tensors['embed_positions.weight'].shape[0],
    )
  except (KeyError, IndexError, ValueError) as error:
    raise ValueError(f'{source}: not a Whisper decoder ({error})') from None


def _import_decoder(
  sizes: DecoderConfig, tensors: Mapping[str, Tensor], source: str
) -> AttentionDecoder:
  width = sizes.d_model
  return table.import_tensors(
    jax.eval_shape(lambda: AttentionDecoder(sizes, width, rngs=nnx.Rngs(0))),
    DECODER,
    tensors,
    decoder_axis_sizes(sizes, width),
    source=source,
    dtype=jnp.float32,
  )


def decoder_axis_sizes(config: DecoderConfig, encoder_size: int) -> dict[str, int]:
  """Return the sizes of the axes in `DECODER`."""
  return {
    'd': config.d_model,
    'e': config.d_model,
    's': encoder_size,
    'f': config.decoder_ffn_dim,
    'p': config.max_target_positions,
    'l': config.decoder_layers,
  }
