# SPDX-License-Identifier: Apache-2.0
"""Reads Whisper models of CTranslate2: `model.bin`, version 6."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from acl_jax.weights.tensor import Tensor

# Parts of CTranslate2's names -> Hugging Face's; linear_0 of attention is q, k and v.
_CTRANSLATE2 = {
  'position_encodings.encodings': 'embed_positions.weight',
  'embeddings.weight': 'embed_tokens.weight',
  'self_attention.layer_norm': 'self_attn_layer_norm',
  'self_attention.linear_1': 'self_attn.out_proj',
  '.attention.layer_norm': '.encoder_attn_layer_norm',
  '.attention.linear_0': '.encoder_attn.q_proj',
  '.attention.linear_2': '.encoder_attn.out_proj',
  'ffn.layer_norm': 'final_layer_norm',
  'ffn.linear_0': 'fc1',
  'ffn.linear_1': 'fc2',
  'gamma': 'weight',
  'beta': 'bias',
}
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(path: Path, part: str) -> tuple[dict[str, Tensor], int]:
  """Return the tensors of a part by Hugging Face's names, and its number of heads.

  part: 'encoder/' or 'decoder/'.
  """
  tensors, num_heads = {}, 0
  for ctranslate2_name, tensor in _scan_ctranslate2(path):
    if not ctranslate2_name.startswith(part):
      continue
    name = ctranslate2_name.removeprefix(part).replace('/', '.')
    name = name.replace('layer_', 'layers.', 1).replace('layers.norm', 'layer_norm', 1)
    if name == 'num_heads':
      num_heads = int(tensor.read().flat[0])
    elif part == 'decoder/' and not tensor.shape:
      continue  # settings of the engine
    elif '.self_attention.linear_0.' in name:
      tensors |= _split(name, tensor, path, 'self_attn', 'qkv')
    elif '.attention.linear_1.' in name:
      tensors |= _split(name, tensor, path, 'encoder_attn', 'kv')
    else:
      for old, new in _CTRANSLATE2.items():
        name = name.replace(old, new)
      tensors[name] = tensor
  return tensors, num_heads


def _split(
  name: str, tensor: Tensor, path: Path, module: str, parts: str
) -> dict[str, Tensor]:
  """Split one tensor into the projections of attention whose letters are `parts`."""
  prefix, kind = name.split('.')[:2], name.rpartition('.')[2]
  if not tensor.shape:
    raise ValueError(f'{path}: {name} is a scalar, not {", ".join(parts)}')
  width = tensor.shape[0] // len(parts)

  def part(i: int) -> Tensor:
    read = lambda: tensor.read()[i * width : (i + 1) * width]  # noqa: E731
    return Tensor((width, *tensor.shape[1:]), read)

  kept = parts
  if kind == 'bias':
    if np.any(part(parts.index('k')).read()):
      raise ValueError(f'{path}: {name} has a key bias, which Whisper does not have')
    kept = parts.replace('k', '')
  return {
    f'{".".join(prefix)}.{module}.{letter}_proj.{kind}': part(parts.index(letter))
    for letter in kept
  }


def _scan_ctranslate2(path: Path) -> Iterator[tuple[str, Tensor]]:
  """Yield the variables of a CTranslate2 `model.bin` of version 6; not read yet."""
  size = path.stat().st_size
  with path.open('rb') as file:

    def read_number(code: str) -> int:
      data = file.read(struct.calcsize(code))
      if len(data) < struct.calcsize(code):
        raise ValueError(f'{path}: ends at byte {size}, in the middle of a header')
      return struct.unpack(code, data)[0]

    def read_string() -> str:
      data = file.read(read_number('<H'))
      return data.rstrip(b'\0').decode('ascii', errors='replace')

    if (version := read_number('<I')) != 6:
      raise ValueError(f'{path}: binary version {version} is not supported, only 6')
    if (spec := read_string()) != 'WhisperSpec':
      raise ValueError(f'{path}: contains a {spec!r}, not a WhisperSpec')
    read_number('<I')  # revision of the spec
    for _ in range(read_number('<I')):
      name = read_string()
      shape = tuple(read_number('<I') for _ in range(read_number('<B')))
      code, length, start = read_number('<B'), read_number('<I'), file.tell()
      if code not in _DTYPES:
        raise ValueError(
          f'{path}: {name} has dtype code {code}; supported are 0 to {max(_DTYPES)}'
        )
      dtype = np.dtype(_DTYPES[code])
      needed = math.prod(shape) * dtype.itemsize
      if not 0 < needed == length <= size - start:
        raise ValueError(
          f'{path}: {name} has {length} bytes at byte {start}; its shape {list(shape)}'
          f' needs {needed}, and the file has {size}'
        )
      yield name, Tensor(shape, _make_reader(path, dtype, start, shape))
      file.seek(start + length)


def _make_reader(path: Path, dtype: np.dtype, start: int, shape: tuple[int, ...]):
  return lambda: np.memmap(path, dtype, 'r', start, shape or (1,)).reshape(shape)
