# SPDX-License-Identifier: Apache-2.0
"""The `mmproj` file of llama.cpp: a Whisper encoder and an Ultravox projector.

Names and keys are those of its `tools/mtmd/clip.cpp` and of its converter. Its graph is
`whisper-enc.cpp`: the second half of the SwiGLU is the gate, as in `StrideAdapter`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.layers import LAYER_NORM_EPS
from acl_jax.models.whisper import Whisper, WhisperConfig
from acl_jax.weights import table
from acl_jax.weights.gguf_file import Kind, read
from acl_jax.weights.gguf_write import Stored
from acl_jax.weights.table import Row
from acl_jax.weights.tensor import Tensor
from acl_jax.weights.whisper import whisper_names

MAX_POSITIONS = 1_500  # llama.cpp fills every clip up to 30 s
PROJECTOR = 'ultravox'

# Axes: d, e, o model width; f feed-forward; c kernel; m mel bins; p positions; u = 1.
_LAYER = {
  'attn_q': ('q_proj', 'e d -> d e'),
  'attn_v': ('v_proj', 'e d -> d e'),
  'attn_out': ('out_proj', 'e d -> d e'),
  'ffn_up': ('fc1', 'f d -> d f'),
  'ffn_down': ('fc2', 'd f -> f d'),
}
_NORMS = {'ln1': 'self_attn_layer_norm', 'ln2': 'final_layer_norm'}
WHISPER: tuple[Row, ...] = (
  ('a.conv1d.1.weight', 'conv1/weight', 'o m c -> c m o'),
  ('a.conv1d.1.bias', 'conv1/bias', 'd u -> (u d)'),
  ('a.conv1d.2.weight', 'conv2/weight', 'o d c -> c d o'),
  ('a.conv1d.2.bias', 'conv2/bias', 'd u -> (u d)'),
  ('a.position_embd.weight', 'embed_positions', 'p d -> p d'),
  ('a.blk.{}.attn_k.weight', 'layers/k_proj', 'e d -> d e'),
  *[
    (f'a.blk.{{}}.{name}.weight', f'layers/{path}/weight', layout)
    for name, (path, layout) in _LAYER.items()
  ],
  *[
    (f'a.blk.{{}}.{name}.bias', f'layers/{path}/bias', f'{layout[0]} -> {layout[0]}')
    for name, (path, layout) in _LAYER.items()
  ],
  *[
    (f'a.blk.{{}}.{name}.{kind}', f'layers/{path}/{kind}', 'd -> d')
    for name, path in _NORMS.items()
    for kind in ('weight', 'bias')
  ],
  ('a.post_ln.weight', 'layer_norm/weight', 'd -> d'),
  ('a.post_ln.bias', 'layer_norm/bias', 'd -> d'),
)
# Axes: i stacked encoder frame, d hidden, m = d / 2, e LLM.
ULTRAVOX: tuple[Row, ...] = (
  ('mm.a.norm_pre.weight', 'ln_pre', 'i -> i'),
  ('mm.a.mlp.1.weight', 'linear_1', 'd i -> i d'),
  ('mm.a.norm_mid.weight', 'ln_mid', 'm -> m'),
  ('mm.a.mlp.2.weight', 'linear_2', 'e m -> m e'),
)
CONVOLUTIONS = ('a.conv1d.1.weight', 'a.conv1d.2.weight')
# clip.audio.* -> attribute of the encoder's config.
_SIZES = {
  'embedding_length': 'd_model',
  'feed_forward_length': 'encoder_ffn_dim',
  'block_count': 'encoder_layers',
  'attention.head_count': 'encoder_attention_heads',
  'num_mel_bins': 'num_mel_bins',
}


class Speech(NamedTuple):
  """What an `mmproj` file holds."""

  encoder: Whisper
  adapter: StrideAdapter


def describe_mmproj(speech: Speech) -> dict[str, Any]:
  """Return the metadata; ValueError if llama.cpp cannot compute the encoder."""
  config = speech.encoder.config
  if config.max_source_positions != MAX_POSITIONS:
    raise ValueError(
      f'the encoder has max_source_positions = {config.max_source_positions}; llama.cpp'
      f' fills every clip up to 30 s, which are {MAX_POSITIONS}'
    )
  check_stack(config.d_model, speech.adapter.config.stack)
  audio = {key: getattr(config, name) for key, name in _SIZES.items()}
  audio |= {
    'attention.layer_norm_epsilon': LAYER_NORM_EPS,
    'projection_dim': speech.adapter.config.llm_size,
    'projector.stack_factor': speech.adapter.config.stack,
  }
  return {
    'general.architecture': 'clip',
    'general.type': 'mmproj',
    'clip.has_audio_encoder': True,
    'clip.projector_type': PROJECTOR,
    'clip.use_gelu': True,
    **{f'clip.audio.{key}': value for key, value in audio.items()},
  }


def check_stack(width: int, stack: int) -> None:
  """Raise ValueError for a stack at which llama.cpp aborts.

  It announces one number of positions per clip, and computes another if the last
  stack is not full (`clip_n_output_tokens`, `build_stack` with `GGML_PAD`).
  """
  announced = -(-2 * MAX_POSITIONS // stack) // 2
  row, frames = stack * width, MAX_POSITIONS * width
  padded = (frames + row - 1) & ~(row - 1)  # rounds up to powers of two only
  computed = MAX_POSITIONS if stack == 1 else padded // row
  if announced != computed:
    raise ValueError(
      f'adapter.stack = {stack} behind an encoder of width {width}: llama.cpp aborts,'
      f' as it announces {announced} positions and computes {computed}; divisors of'
      f' {MAX_POSITIONS}, such as 4, 5, 6, 10 or 12, are safe'
    )


def export_mmproj(speech: Speech) -> list[Stored]:
  """Return the tensors in float32, but for the convolutions: llama.cpp has float16."""
  tensors = [
    *table.export_tensors(speech.encoder, WHISPER, _whisper_sizes(speech.encoder)),
    *table.export_tensors(speech.adapter, ULTRAVOX, _sizes(speech.adapter.config)),
  ]
  return [
    Stored(name, tensor, Kind.F16 if name in CONVOLUTIONS else Kind.F32)
    for name, tensor in tensors
  ]


def load_mmproj(path: Path) -> Speech:
  """Load a file; ValueError if it is no Whisper encoder with an Ultravox projector."""
  metadata, tensors = read(path)
  kind = metadata.get('clip.projector_type')
  if metadata.get('general.architecture') != 'clip' or kind != PROJECTOR:
    raise ValueError(f'{path}: the projector is {kind!r:.60}, not {PROJECTOR}')
  if other := [name for name in tensors if not name.startswith(('a.', 'mm.a.'))]:
    raise ValueError(f'{path}: unexpected tensor {other[0]} ({len(other)} in total)')
  encoder = _create_encoder(metadata, tensors, path)
  adapter = _create_adapter(metadata, tensors, path)
  parts = []
  for model, rows, sizes in (
    (encoder, WHISPER, _whisper_sizes(encoder)),
    (adapter, ULTRAVOX, _sizes(adapter.config)),
  ):
    prefix = 'a.' if rows is WHISPER else 'mm.a.'
    chosen = {name: t for name, t in tensors.items() if name.startswith(prefix)}
    parts.append(
      table.import_tensors(
        model, rows, chosen, sizes, source=str(path), dtype=jnp.float32
      )
    )
  return Speech(*parts)


def _create_encoder(
  metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> Whisper:
  positions = tensors.get('a.position_embd.weight')
  fields: dict[str, Any] = {
    ours: metadata.get(f'clip.audio.{key}') for key, ours in _SIZES.items()
  }
  fields['max_source_positions'] = positions.shape[0] if positions else 0
  try:
    config = WhisperConfig(**fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path}: {error}') from None
  return jax.eval_shape(lambda: Whisper(config, rngs=nnx.Rngs(0)))


def _create_adapter(
  metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> StrideAdapter:
  stack = metadata.get('clip.audio.projector.stack_factor')
  first, last = (tensors.get(f'mm.a.mlp.{i}.weight') for i in (1, 2))
  if type(stack) is not int or not stack or first is None or last is None:
    raise ValueError(f'{path}: has no projector with a stack_factor and two layers')
  sizes = first.shape[1] // stack, first.shape[0], last.shape[0]
  config = StrideAdapterConfig(stack, *sizes)
  return jax.eval_shape(lambda: StrideAdapter(config, rngs=nnx.Rngs(0)))


def _whisper_sizes(encoder: Whisper) -> dict[str, int]:
  return {**whisper_names(encoder).sizes, 'u': 1}


def _sizes(config: StrideAdapterConfig) -> dict[str, int]:
  hidden = config.hidden_size or 0
  stacked = config.stack * config.encoder_size
  return {'i': stacked, 'd': hidden, 'm': hidden // 2, 'e': config.llm_size, 'l': 0}
