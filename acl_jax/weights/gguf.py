# SPDX-License-Identifier: Apache-2.0
"""Read GGUF, the format of llama.cpp: header, tensors and the name table of a Llama.

Counts and lengths are checked against the file size; `gguf` dequantises the blocks.
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
from acl_jax.weights.configuration import make_llama_config, select_attributes
from acl_jax.weights.tensor import Tensor

Kind = gguf.GGMLQuantizationType
# fmt: off
KINDS = (
  Kind.F32, Kind.F16, Kind.BF16,
  Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0,
  Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K,
)
# fmt: on
# Metadata types by number: struct codes of those of fixed width, then the others.
SCALARS = dict(enumerate('BbHhIif?')) | {10: 'Q', 11: 'q', 12: 'd'}
FLOAT32, STRING, ARRAY = 6, 8, 9
MAX_DIMENSIONS = 4

# RoPE rotates rows (2i, 2i + 1) of q and k in the file, rows (i, i + h/2) in the model:
# i pairs of c = 2 rows per head.
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

FIELD_NAMES = {
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
  'rope.dimension_count': 'rope_dimension_count',
}
SUPPORTED_VALUES = {
  'attention.causal': (True,),
  'attention.sliding_window': (0,),
  'expert_count': (0,),
  'expert_used_count': (0,),
  'rope.scale_linear': (1.0,),
  'rope.scaling.type': ('none',),
  'use_parallel_residual': (False,),
}
IGNORED = ('tensor_data_layout',)


class _Header:
  """A cursor over the bytes of a file; ValueError where it would read past the end."""

  def __init__(self, path: Path):
    self.path, self.position = path, 0
    with path.open('rb') as file:
      self.size = file.seek(0, 2)  # an empty file cannot be mapped
      read_only = mmap.ACCESS_READ
      self.bytes = mmap.mmap(file.fileno(), 0, access=read_only) if self.size else b''

  def check_remaining(self, count: int, what: str) -> None:
    """Raise ValueError unless at least `count` bytes remain."""
    remaining = self.size - self.position
    if count > remaining:
      raise ValueError(
        f'{self.path}: {what} at byte {self.position} needs {count} bytes; only'
        f' {remaining} remain: the file is truncated or corrupt'
      )

  def read_bytes(self, count: int, what: str) -> bytes:
    self.check_remaining(count, what)
    self.position += count
    return self.bytes[self.position - count : self.position]

  def read_number(self, code: str, what: str) -> Any:
    """Read one number; `code` is that of `struct`."""
    data = self.read_bytes(struct.calcsize('<' + code), what)
    return struct.unpack('<' + code, data)[0]

  def read_string(self, what: str) -> str:
    return self.read_strings(1, what)[0]

  def read_strings(self, count: int, what: str) -> list[str]:
    """Read `count` strings, without a call for each: vocabularies are long."""
    self.check_remaining(8 * count, what)
    strings, unpack = [], struct.Struct('<Q').unpack_from
    for _ in range(count):
      start = end = self.position + 8
      if start <= self.size:
        end += unpack(self.bytes, self.position)[0]
      if end > self.size:
        self.check_remaining(end - self.position, what)  # raises
      strings.append(self.bytes[start:end])
      self.position = end
    try:
      return [string.decode() for string in strings]
    except UnicodeDecodeError as error:
      raise ValueError(f'{self.path}: {what} is not UTF-8') from error

  def read_value(self, kind: int, what: str) -> Any:
    """Read a metadata value of type number `kind`; nested arrays are not supported."""
    if kind == FLOAT32:  # 1e-5, not 9.999999747378752e-06
      return float(str(np.float32(self.read_number('f', what))))
    if kind in SCALARS:
      return self.read_number(SCALARS[kind], what)
    if kind == STRING:
      return self.read_string(what)
    if kind != ARRAY:
      raise ValueError(f'{self.path}: {what} has the unknown type {kind}')
    kind, count = self.read_number('I', what), self.read_number('Q', what)
    if kind == STRING:
      return self.read_strings(count, what)
    if kind not in SCALARS:
      raise ValueError(f'{self.path}: {what} is an array of unsupported type {kind}')
    width = struct.calcsize('<' + SCALARS[kind])
    dtype = np.dtype(SCALARS[kind]).newbyteorder('<')
    return np.frombuffer(self.read_bytes(width * count, what), dtype).tolist()


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
  """Return the metadata and the tensors of a GGUF file; tensors are not read yet."""
  header = _Header(path)
  if header.read_bytes(4, 'the magic number') != b'GGUF':
    raise ValueError(f'{path}: not a GGUF file')
  if (version := header.read_number('I', 'the version')) not in (2, 3):
    raise ValueError(f'{path}: GGUF version {version} is not supported, only 2 and 3')
  num_tensors = header.read_number('Q', 'the number of tensors')
  num_entries = header.read_number('Q', 'the number of metadata entries')
  header.check_remaining(24 * num_tensors + 13 * num_entries, 'the header')
  metadata = {}
  for _ in range(num_entries):
    name = header.read_string('the name of a metadata entry')
    if name in metadata:
      raise ValueError(f'{path}: metadata entry {name} occurs twice')
    metadata[name] = header.read_value(header.read_number('I', name), name)
  alignment = metadata.get('general.alignment', 32)
  return metadata, _read_tensor_infos(header, num_tensors, alignment)


def _read_tensor_infos(
  header: _Header, count: int, alignment: int
) -> dict[str, Tensor]:
  infos = {}
  for _ in range(count):
    name = header.read_string('the name of a tensor')
    rank = header.read_number('I', name)
    if name in infos:
      raise ValueError(f'{header.path}: tensor {name} occurs twice')
    if rank > MAX_DIMENSIONS:
      raise ValueError(
        f'{header.path}: tensor {name} has {rank} dimensions; the limit is'
        f' {MAX_DIMENSIONS}'
      )
    shape = tuple(header.read_number('Q', name) for _ in range(rank))[::-1]
    infos[name] = shape, header.read_number('I', name), header.read_number('Q', name)
  if not isinstance(alignment, int) or alignment <= 0:
    raise ValueError(f'{header.path}: general.alignment = {alignment!r}')
  data_start = -(-header.position // alignment) * alignment
  return {
    name: _make_tensor(header, name, shape, kind, data_start + offset)
    for name, (shape, kind, offset) in infos.items()
  }


def _make_tensor(
  header: _Header, name: str, shape: tuple[int, ...], kind: int, start: int
) -> Tensor:
  """Return the tensor at byte `start`; ValueError if it exceeds the file."""
  what = f'{header.path}: tensor {name}'
  if kind not in KINDS:
    raise ValueError(f'{what} has the unsupported type {kind}')
  block_size, bytes_per_block = gguf.GGML_QUANT_SIZES[Kind(kind)]
  row_size = shape[-1] if shape else 1
  if row_size % block_size:
    raise ValueError(
      f'{what}: row size {row_size} is not a multiple of the block size {block_size}'
    )
  stop = start + math.prod(shape) // block_size * bytes_per_block
  if stop > header.size:
    raise ValueError(
      f'{what} ends at byte {stop}, the file at byte {header.size}: the file is'
      ' truncated or corrupt'
    )

  def read():
    data = np.frombuffer(header.bytes[start:stop], np.uint8)
    blocks = data.reshape(-1, row_size // block_size * bytes_per_block)
    return gguf.dequantize(blocks, Kind(kind)).reshape(shape)

  return Tensor(shape, read)


def read_llama(path: Path) -> tuple[llama.LlamaConfig, dict[str, Tensor]]:
  """Return the configuration and the tensors of a Llama; tensors are not read yet."""
  metadata, tensors = read(path)
  architecture = metadata.get('general.architecture')
  if architecture != 'llama':
    raise ValueError(f'{path}: general.architecture is {architecture!r}, not llama')
  attributes = {
    key.removeprefix('llama.'): value
    for key, value in metadata.items()
    if key.startswith('llama.')
  }
  fields = select_attributes(
    attributes,
    field_names=FIELD_NAMES,
    supported_values=SUPPORTED_VALUES,
    ignored=IGNORED,
    source=path,
  )
  # The defaults of llama.cpp.
  fields.setdefault('rope_theta', 10_000.0)
  if isinstance(tokens := metadata.get('tokenizer.ggml.tokens'), list):
    fields.setdefault('vocab_size', len(tokens))
  fields['tie_word_embeddings'] = 'output.weight' not in tensors
  # Ours has one head size.
  head_sizes = {
    key: fields.pop(key, None) for key in ('value_length', 'rope_dimension_count')
  }
  config = make_llama_config(fields, source=path)
  for key, value in head_sizes.items():
    if value not in (None, config.head_dim):
      raise ValueError(f'{path}: {key} = {value!r}; head_dim is {config.head_dim}')
  return config, tensors
