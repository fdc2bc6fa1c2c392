# SPDX-License-Identifier: Apache-2.0
"""A Conformer in a Hugging Face folder: `ParakeetEncoder`, or `ParakeetForCTC`."""

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
from acl_jax.weights.configuration import select, typed
from acl_jax.weights.exported import open_part
from acl_jax.weights.table import Tensor

CONFIG = 'config.json'
ENCODER, CTC = 'parakeet_encoder', 'parakeet_ctc'  # their model_type

# d, e are the width, g two, u and s one, w a kernel, c, k channels, q the bins left.
_NORMS = ('norm_feed_forward1', 'norm_self_att', 'norm_conv', 'norm_feed_forward2')
_MATRICES = {
  'feed_forward1.linear1': 'f d -> d f',
  'feed_forward1.linear2': 'd f -> f d',
  'self_attn.q_proj': 'e d -> d e',
  'self_attn.k_proj': 'e d -> d e',
  'self_attn.v_proj': 'e d -> d e',
  'self_attn.o_proj': 'e d -> d e',
  'feed_forward2.linear1': 'f d -> d f',
  'feed_forward2.linear2': 'd f -> f d',
}
_POINTWISE = {
  'conv.pointwise_conv1': '(g e) d u -> d (u g e)',
  'conv.pointwise_conv2': 'e d u -> d (u e)',
}
_OTHERS = {
  'self_attn.relative_k_proj.weight': ('self_attn/relative_k_proj', 'e d -> d e'),
  'self_attn.bias_u': ('self_attn/bias_u', 'n h -> n h'),
  'self_attn.bias_v': ('self_attn/bias_v', 'n h -> n h'),
  'conv.depthwise_conv.weight': ('conv/depthwise_conv', 'd u w -> w (u d)'),
  'conv.norm.running_mean': ('conv/norm/running_mean', 'd -> d'),
  'conv.norm.running_var': ('conv/norm/running_var', 'd -> d'),
}
_COUNT = '.conv.norm.num_batches_tracked'  # PyTorch counts; nobody reads it
USED = {field.name: field.name for field in dataclasses.fields(ConformerConfig)}
del USED['attention_context']  # Transformers has none, so no file does
FIXED = {
  'model_type': (ENCODER,),
  'hidden_act': ('silu',),
  'subsampling_conv_kernel_size': (3,),
  'subsampling_conv_stride': (2,),
}
HARMLESS = (
  *('_name_or_path', 'architectures', 'transformers_version', 'dtype', 'torch_dtype'),
  *('initializer_range', 'num_key_value_heads', 'layerdrop', 'dropout_positions'),
  *('activation_dropout', 'attention_dropout'),  # of training: we have one dropout
  *('return_dict', 'output_hidden_states', 'output_attentions', 'is_encoder_decoder'),
  *('chunk_size_feed_forward', 'id2label', 'label2id', 'problem_type'),
)


def load_conformer(
  folder: str | Path, dtype: DTypeLike = jnp.float32
) -> Conformer | ConformerCTC:
  """The encoder in a folder of `config.json` and safetensors, and its head if any."""
  folder = Path(folder)
  found, tensors = open_part(folder, 'audio_config', 'audio_tower.', ignored=_COUNT)
  kind, vocab_size = found.get('model_type'), 0
  if kind not in (ENCODER, CTC):
    raise ValueError(
      f'{folder / CONFIG}: model_type is {kind!r}, neither {ENCODER} nor {CTC}'
    )
  if kind == CTC:
    vocab_size = _vocabulary(found, folder / CONFIG)
    found = found.get('encoder_config')
    if not isinstance(found, dict):
      raise ValueError(f'{folder / CONFIG}: encoder_config is not an object')
  config = _configuration(found, folder / CONFIG)
  model = jax.eval_shape(lambda: _new(config, vocab_size))
  return table.fill(
    model,
    _rows(config, vocab_size),
    tensors,
    _sizes(config, vocab_size),
    source=str(folder),
    dtype=jnp.dtype(dtype),
  )


def save_conformer(model: Conformer | ConformerCTC, folder: str | Path) -> None:
  """Writes a folder that `load_conformer` and Transformers read."""
  folder, text = Path(folder), json.dumps(describe_conformer(model), indent=2)
  folder.mkdir(parents=True, exist_ok=True)
  safetensors.write(folder, export_conformer(model))
  (folder / CONFIG).write_text(text + '\n')


def export_conformer(model: Conformer | ConformerCTC) -> Iterator[tuple[str, Tensor]]:
  """Its tensors by Transformers' names."""
  config, vocab_size = model.config, _head_size(model)
  rows, sizes = _rows(config, vocab_size), _sizes(config, vocab_size)
  yield from table.export(model, rows, sizes)
  prefix = 'encoder.layers' if vocab_size else 'layers'
  for i in range(config.num_hidden_layers):
    yield f'{prefix}.{i}{_COUNT}', Tensor.of(np.zeros((), np.int64))


def describe_conformer(model: Conformer | ConformerCTC) -> dict[str, Any]:
  """What `config.json` says of it; ValueError if Transformers has no such model."""
  if (context := model.config.attention_context) is not None:
    raise ValueError(
      f'the encoder has attention_context = {context}; Transformers has no Parakeet of'
      ' limited context'
    )
  return _describe(model.config, _head_size(model))


def _head_size(model: Conformer | ConformerCTC) -> int:
  return model.ctc_head.weight.shape[1] if isinstance(model, ConformerCTC) else 0


def _new(config: ConformerConfig, vocab_size: int) -> Conformer | ConformerCTC:
  rngs = nnx.Rngs(0)
  if vocab_size:
    return ConformerCTC(config, vocab_size, rngs=rngs)
  return Conformer(config, rngs=rngs)


def _vocabulary(found: dict[str, Any], path: Path) -> int:
  size, blank = found.get('vocab_size'), found.get('pad_token_id')
  if type(size) is not int or size < 2:
    raise ValueError(f'{path}: vocab_size = {size!r:.60} is no number of classes')
  if blank != size - 1:
    raise ValueError(
      f'{path}: pad_token_id = {blank!r:.60}; the blank is the last class, {size - 1}'
    )
  return size


def _configuration(found: dict[str, Any], path: Path) -> ConformerConfig:
  found = {'model_type': ENCODER, **found}
  fields = select(found, used=USED, fixed=FIXED, harmless=HARMLESS, source=path)
  fields = typed(fields, ConformerConfig, source=path)
  try:
    return ConformerConfig(**fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path}: {error}') from None


def _describe(config: ConformerConfig, vocab_size: int) -> dict[str, Any]:
  fields = dataclasses.asdict(config)
  del fields['attention_context']
  encoder = {key: values[0] for key, values in FIXED.items()} | fields
  encoder |= {
    **dict.fromkeys(('activation_dropout', 'attention_dropout'), config.dropout),
    **{'layerdrop': 0.0, 'dropout_positions': 0.0},
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


def _rows(config: ConformerConfig, vocab_size: int) -> list[table.Row]:
  rows = [*_subsampling(config), *_layers(config)]
  if not vocab_size:
    return rows
  rows = [(f'encoder.{name}', f'encoder/{path}', how) for name, path, how in rows]
  return [
    *rows,
    ('ctc_head.weight', 'ctc_head/weight', 'v d u -> d (u v)'),
    ('ctc_head.bias', 'ctc_head/bias', 'v -> v'),
  ]


def _subsampling(config: ConformerConfig) -> list[table.Row]:
  kernel = 'c u i j -> i j (u c)'
  rows: list[table.Row] = [
    ('layers.0.weight', 'conv/weight', kernel),
    ('layers.0.bias', 'conv/bias', 'c -> c'),
    ('linear.weight', 'linear', 'd (c q) -> q c d'),
    ('linear.bias', 'bias', 'd -> d'),
  ]
  for level in range(1, config.subsampling_factor.bit_length() - 1):
    place = 3 * level - 1  # in PyTorch's list, which counts activations too
    rows += [
      (f'layers.{place}.weight', f'depthwise_{level}/weight', kernel),
      (f'layers.{place}.bias', f'depthwise_{level}/bias', 'c -> c'),
      (
        f'layers.{place + 1}.weight',
        f'pointwise_{level}/weight',
        'k c u s -> c (u s k)',
      ),
      (f'layers.{place + 1}.bias', f'pointwise_{level}/bias', 'c -> c'),
    ]
  return [(f'subsampling.{a}', f'subsampling/{b}', how) for a, b, how in rows]


def _layers(config: ConformerConfig) -> list[table.Row]:
  rows: list[table.Row] = [(theirs, *ours) for theirs, ours in _OTHERS.items()]
  for name in (*_NORMS, 'norm_out', 'conv.norm'):
    path = name.replace('.', '/')
    rows += [(f'{name}.{x}', f'{path}/{x}', 'd -> d') for x in ('weight', 'bias')]
  for name, layout in (_MATRICES | _POINTWISE).items():
    path = name.replace('.', '/')
    rows.append((f'{name}.weight', f'{path}/weight', layout))
    biased = config.convolution_bias if name in _POINTWISE else config.attention_bias
    if biased:
      outputs = layout.split()[0] if 'g' not in layout else '(g e)'
      rows.append((f'{name}.bias', f'{path}/bias', f'{outputs} -> {outputs}'))
  if config.convolution_bias:
    rows.append(('conv.depthwise_conv.bias', 'conv/depthwise_bias', 'd -> d'))
  return [(f'layers.{{}}.{a}', f'layers/{b}', how) for a, b, how in rows]


def _sizes(config: ConformerConfig, vocab_size: int) -> dict[str, int]:
  d, c = config.hidden_size, config.subsampling_conv_channels
  return {
    **{'d': d, 'e': d, 'f': config.intermediate_size, 'g': 2, 'u': 1, 's': 1},
    **{'n': config.num_attention_heads, 'h': d // config.num_attention_heads},
    **{'w': config.conv_kernel_size, 'c': c, 'k': c, 'i': 3, 'j': 3},
    'q': config.num_mel_bins // config.subsampling_factor,
    'l': config.num_hidden_layers,
    'v': vocab_size,
  }
