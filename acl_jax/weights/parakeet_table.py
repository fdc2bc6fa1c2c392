# SPDX-License-Identifier: Apache-2.0
"""The name table of Parakeet in Transformers; see `table` for the format."""

from acl_jax.models.conformer import ConformerConfig
from acl_jax.weights import table

# Axes: d, e model width; f feed-forward; n heads of size h; g = 2 halves of the GLU;
# u = s = 1; w, i, j kernel; c, k channels; q subsampled mel bins; v vocabulary.
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


def make_rows(config: ConformerConfig, vocab_size: int) -> list[table.Row]:
  """Return the table of an encoder, with its CTC head unless `vocab_size` is 0."""
  rows = [*_subsampling_rows(config), *_layer_rows(config)]
  if not vocab_size:
    return rows
  rows = [(f'encoder.{name}', f'encoder/{path}', layout) for name, path, layout in rows]
  return [
    *rows,
    ('ctc_head.weight', 'ctc_head/weight', 'v d u -> d (u v)'),
    ('ctc_head.bias', 'ctc_head/bias', 'v -> v'),
  ]


def _subsampling_rows(config: ConformerConfig) -> list[table.Row]:
  depthwise = 'c u i j -> i j (u c)'
  pointwise = 'k c u s -> c (u s k)'
  rows: list[table.Row] = [
    ('layers.0.weight', 'conv/weight', depthwise),
    ('layers.0.bias', 'conv/bias', 'c -> c'),
    ('linear.weight', 'linear', 'd (c q) -> q c d'),
    ('linear.bias', 'bias', 'd -> d'),
  ]
  for level in range(1, config.subsampling_factor.bit_length() - 1):
    i = 3 * level - 1  # in PyTorch's list of layers, which includes activations
    rows += [
      (f'layers.{i}.weight', f'depthwise_{level}/weight', depthwise),
      (f'layers.{i}.bias', f'depthwise_{level}/bias', 'c -> c'),
      (f'layers.{i + 1}.weight', f'pointwise_{level}/weight', pointwise),
      (f'layers.{i + 1}.bias', f'pointwise_{level}/bias', 'c -> c'),
    ]
  return [
    (f'subsampling.{name}', f'subsampling/{path}', layout)
    for name, path, layout in rows
  ]


def _layer_rows(config: ConformerConfig) -> list[table.Row]:
  rows: list[table.Row] = [
    (name, path, layout) for name, (path, layout) in _OTHERS.items()
  ]
  for name in (*_NORMS, 'norm_out', 'conv.norm'):
    path = name.replace('.', '/')
    rows += [(f'{name}.{x}', f'{path}/{x}', 'd -> d') for x in ('weight', 'bias')]
  for name, layout in (_MATRICES | _POINTWISE).items():
    path = name.replace('.', '/')
    rows.append((f'{name}.weight', f'{path}/weight', layout))
    has_bias = config.convolution_bias if name in _POINTWISE else config.attention_bias
    if has_bias:
      outputs = layout.split()[0] if 'g' not in layout else '(g e)'
      rows.append((f'{name}.bias', f'{path}/bias', f'{outputs} -> {outputs}'))
  if config.convolution_bias:
    rows.append(('conv.depthwise_conv.bias', 'conv/depthwise_bias', 'd -> d'))
  return [
    (f'layers.{{}}.{name}', f'layers/{path}', layout) for name, path, layout in rows
  ]


def axis_sizes(config: ConformerConfig, vocab_size: int) -> dict[str, int]:
  """Return the axis sizes by the letters of the table."""
  return {
    'd': config.hidden_size,
    'e': config.hidden_size,
    'f': config.intermediate_size,
    'n': config.num_attention_heads,
    'h': config.hidden_size // config.num_attention_heads,
    'g': 2,
    'u': 1,
    's': 1,
    'w': config.conv_kernel_size,
    'i': 3,
    'j': 3,
    'c': config.subsampling_conv_channels,
    'k': config.subsampling_conv_channels,
    'q': config.num_mel_bins // config.subsampling_factor,
    'l': config.num_hidden_layers,
    'v': vocab_size,
  }
