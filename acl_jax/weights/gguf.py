# SPDX-License-Identifier: Apache-2.0
"""GGUF, the format of llama.cpp: header and tensors, and a Llama's name table.

The header is read here, every count and length checked against the file before it is
believed; the `gguf` package knows the quantised blocks.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from acl_jax.models import llama
from acl_jax.weights.configuration import build_llama, select
from acl_jax.weights.table import Tensor

Kind = gguf.GGMLQuantizationType
KINDS = (
  *(Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1),
  *(Kind.Q8_0, Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K),
)
# Type numbers of the format: struct codes of the fixed-width ones, then the others.
SCALARS = dict(enumerate('BbHhIif?')) | {10: 'Q', 11: 'q', 12: 'd'}
FLOAT32, STRING, ARRAY = 6, 8, 9
MAX_DIMENSIONS = 4

# q and k rows come in pairs (2i, 2i + 1) of a rotation, i of them per head;
# ours are (i, i + h/2). c is the pair.
LLAMA = (
  ('token_embd.weight', 'embed_tokens', 'v d -> v d'),
  ('blk.{}.attn_norm.weight', 'layers/input_layernorm', 'd -> d'),
  ('blk.{}.attn_q.weight', 'layers/self_attn/q_proj', '(n i c) d -> d n (c i)'),
  ('blk.{}.attn_k.weight', 'layers/self_attn/k_proj', '(k i c) d -> d k (c i)'),
  ('blk.{}.attn_v.weight', 'layers/self_attn/v_proj', '(k h) d -> d k h'),
  ('blk.{}.attn_output.weight', 'layers/self_attn/o_proj', 'd (n h) -> n h d'),
  ('blk.{}.ffn_norm.weight', 'layers/post_attention_layernorm', 'd -> d'),
  ('blk.{}.ffn_gate.weight', 'layers/mlp/gate_proj', 'f d -> d f'),
  ('blk.{}.ffn_up.weight', 'layers/mlp/up_proj', 'f d -> d f'),
  ('blk.{}.ffn_down.weight', 'layers/mlp/down_proj', 'd f -> f d'),
  ('output_norm.weight', 'norm', 'd -> d'),
  ('output.weight', 'lm_head', 'v d -> d v'),
)


USED = {
  'block_count': 'num_hidden_layers',
  'context_length': 'max_position_embeddings',
  'embedding_length': 'hidden_size',
  'feed_forward_length': 'intermediate_size',
  'vocab_size': 'vocab_size',
  'attention.head_count': 'num_attention_heads',
  'attention.head_count_kv': 'num_key_value_heads',
  'attention.key_length': 'head_dim',
  'attention.value_length': 'value_length',
  'attention.layer_norm_rms_epsilon': 'rms_norm_eps',
  'rope.freq_base': 'rope_theta',
  'rope.dimension_count': 'rotated',
}
FIXED = {
  'attention.causal': (True,),
  'attention.sliding_window': (0,),
  'expert_count': (0,),
  'expert_used_count': (0,),
  'rope.scale_linear': (1.0,),
  'rope.scaling.type': ('none',),
  'use_parallel_residual': (False,),
}
HARMLESS = ('tensor_data_layout',)


class _Header:
  """A cursor over the bytes of a file that never reads past their end."""

  def __init__(self, path: Path):
    self.path, self.at = path, 0
    with path.open('rb') as file:
      self.size = file.seek(0, 2)  # an empty file cannot be mapped
      self.bytes = (
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b''
      )

  def need(self, count: int, what: str) -> None:
    """Raises unless `count` more bytes are there."""
    if count > self.size - self.at:
      raise ValueError(
        f'{self.path}: {what} at byte {self.at} needs {count} bytes,'
        f' the file ends after {self.size - self.at} more: truncated or corrupt'
      )

  def take(self, count: int, what: str) -> bytes:
    self.need(count, what)
    self.at += count
    return self.bytes[self.at - count : self.at]

  def number(self, code: str, what: str) -> Any:
    return struct.unpack('<' + code, self.take(struct.calcsize('<' + code), what))[0]

  def string(self, what: str) -> str:
    text = self.take(self.number('Q', what), what)
    try:
      return text.decode()
    except UnicodeDecodeError as error:
      raise ValueError(f'{self.path}: {what} is not UTF-8') from error

  def value(self, kind: int, what: str) -> Any:
    """A metadata value; arrays of arrays, which no model has, are refused."""
    if kind == FLOAT32:  # 1e-5, not 9.999999747378752e-06
      return float(str(np.float32(self.number('f', what))))
    if kind in SCALARS:
      return self.number(SCALARS[kind], what)
    if kind == STRING:
      return self.string(what)
    if kind != ARRAY:
      raise ValueError(f'{self.path}: {what} has the unknown type {kind}')
    kind, count = self.number('I', what), self.number('Q', what)
    if kind == STRING:
      self.need(8 * count, what)
      return [self.string(what) for _ in range(count)]
    if kind not in SCALARS:
      raise ValueError(
        f'{self.path}: {what} is an array of the unsupported type {kind}'
      )
    width = struct.calcsize('<' + SCALARS[kind])
    dtype = np.dtype(SCALARS[kind]).newbyteorder('<')
    return np.frombuffer(self.take(width * count, what), dtype).tolist()


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
  """The metadata and the tensors of a GGUF file, the latter not read yet."""
  header = _Header(path)
  if header.take(4, 'the magic number') != b'GGUF':
    raise ValueError(f'{path}: not a GGUF file')
  if (version := header.number('I', 'the version')) not in (2, 3):
    raise ValueError(f'{path}: GGUF version {version} is not supported, only 2 and 3')
  tensors, entries = header.number('Q', 'tensors'), header.number('Q', 'metadata')
  header.need(24 * tensors + 13 * entries, 'the header')
  metadata = {}
  for _ in range(entries):
    name = header.string('the name of a metadata entry')
    if name in metadata:
      raise ValueError(f'{path}: the metadata entry {name} comes twice')
    metadata[name] = header.value(header.number('I', name), name)
  return metadata, _tensors(header, tensors, metadata.get('general.alignment', 32))


def _tensors(header: _Header, count: int, alignment: int) -> dict[str, Tensor]:
  infos = {}
  for _ in range(count):
    name = header.string('the name of a tensor')
    rank = header.number('I', name)
    if name in infos or rank > MAX_DIMENSIONS:
      fault = f'has {rank} dimensions' if rank > MAX_DIMENSIONS else 'comes twice'
      raise ValueError(f'{header.path}: the tensor {name} {fault}')
    shape = tuple(header.number('Q', name) for _ in range(rank))[::-1]
    infos[name] = shape, header.number('I', name), header.number('Q', name)
  if not isinstance(alignment, int) or alignment <= 0:
    raise ValueError(f'{header.path}: general.alignment = {alignment!r}')
  data = -(-header.at // alignment) * alignment
  return {
    name: _tensor(header, name, shape, kind, data + offset)
    for name, (shape, kind, offset) in infos.items()
  }


def _tensor(
  header: _Header, name: str, shape: tuple[int, ...], kind: int, start: int
) -> Tensor:
  """The tensor that lies at byte `start`, once it is known to lie inside the file."""
  where = f'{header.path}: the tensor {name}'
  if kind not in KINDS:
    raise ValueError(f'{where} has the unsupported type {kind}')
  width, bytes_per_block = gguf.GGML_QUANT_SIZES[Kind(kind)]
  row = shape[-1] if shape else 1
  if row % width:
    raise ValueError(f'{where}: rows of {row} are not made of blocks of {width}')
  stop = start + math.prod(shape) // width * bytes_per_block
  if stop > header.size:
    raise ValueError(
      f'{where} ends at byte {stop}, the file at {header.size}: truncated or corrupt'
    )

  def read():
    data = np.frombuffer(header.bytes[start:stop], np.uint8)
    blocks = data.reshape(-1, row // width * bytes_per_block)
    return gguf.dequantize(blocks, Kind(kind)).reshape(shape)

  return Tensor(shape, read)


def open_llama(path: Path) -> tuple[llama.LlamaConfig, dict[str, Tensor]]:
  """The configuration and the tensors of a Llama in a GGUF file."""
  metadata, tensors = read(path)
  architecture = metadata.get('general.architecture')
  if architecture != 'llama':
    raise ValueError(f'{path}: general.architecture is {architecture!r}, not llama')
  attributes = {
    key.removeprefix('llama.'): value
    for key, value in metadata.items()
    if key.startswith('llama.')
  }
  fields = select(attributes, used=USED, fixed=FIXED, harmless=HARMLESS, source=path)
  # What llama.cpp takes when they are left out.
  fields.setdefault('rope_theta', 10_000.0)
  if isinstance(tokens := metadata.get('tokenizer.ggml.tokens'), list):
    fields.setdefault('vocab_size', len(tokens))
  fields['tie_word_embeddings'] = 'output.weight' not in tensors
  same = {key: fields.pop(key, None) for key in ('value_length', 'rotated')}
  config = build_llama(fields, source=path)
  for key, value in same.items():
    if value not in (None, config.head_dim):
      raise ValueError(
        f'{path}: {key} = {value!r}, the head width is {config.head_dim}'
      )
  return config, tensors
