# SPDX-License-Identifier: Apache-2.0
"""Read GGUF files, the format of llama.cpp: metadata and tensors.

Counts and lengths are checked against limits and the file size before anything is
allocated; `gguf` dequantises the blocks.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import functools
import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from acl_jax.weights.sharded_read import Index
from acl_jax.weights.tensor import Tensor

Kind = gguf.GGMLQuantizationType
_KINDS = frozenset(map(int, Kind))
# Metadata types by number: struct codes of those of fixed width, then the others.
SCALARS = dict(enumerate('BbHhIif?')) | {10: 'Q', 11: 'q', 12: 'd'}
FLOAT32, STRING, ARRAY = 6, 8, 9
# Published files have up to 2,000 tensors, 60 entries, arrays of 600,000 elements and
# strings (a tokenizer.json) of 20 MB.
MAX_TENSORS, MAX_ENTRIES = 1 << 16, 1 << 12
MAX_ELEMENTS, MAX_STRING_BYTES = 1 << 22, 1 << 26
MAX_METADATA_BYTES = 1 << 30  # published files have up to 30 MB
MAX_DIMENSIONS = 4


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

  def check_limit(self, count: int, limit: int, what: str) -> None:
    """Raise ValueError if a count in the file exceeds our limit."""
    if count > limit:
      raise ValueError(f'{self.path}: {what}: {count} exceeds the limit of {limit}')

  def read_bytes(self, count: int, what: str) -> bytes:
    self.check_remaining(count, what)
    self.check_limit(self.position + count, MAX_METADATA_BYTES, 'bytes of the header')
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
    self.check_limit(count, MAX_ELEMENTS, f'the length of {what}')
    self.check_remaining(8 * count, what)
    strings, unpack = [], struct.Struct('<Q').unpack_from
    for _ in range(count):
      start = end = self.position + 8
      if start <= self.size:
        end += unpack(self.bytes, self.position)[0]
      if end > min(self.size, MAX_METADATA_BYTES) or end - start > MAX_STRING_BYTES:
        self.check_remaining(end - self.position, what)
        self.check_limit(end - start, MAX_STRING_BYTES, f'the bytes of {what}')
        self.check_limit(end, MAX_METADATA_BYTES, 'bytes of the header')
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
    self.check_limit(count, MAX_ELEMENTS, f'the length of {what}')
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
  header.check_limit(num_tensors, MAX_TENSORS, 'the number of tensors')
  header.check_limit(num_entries, MAX_ENTRIES, 'the number of metadata entries')
  header.check_remaining(24 * num_tensors + 13 * num_entries, 'the header')
  metadata = {}
  for _ in range(num_entries):
    name = header.read_string('the name of a metadata entry')
    if name in metadata:
      raise ValueError(f'{path}: metadata entry {name} occurs twice')
    metadata[name] = header.read_value(header.read_number('I', name), name)
  if (count := metadata.get('split.count', 1)) not in (0, 1):
    raise ValueError(
      f'{path}: split.count is {count}: a part of a model; join the parts with'
      ' `llama-gguf-split --merge`'
    )
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


@functools.cache
def can_dequantise(kind: Kind) -> bool:
  """Whether the installed gguf package dequantises a type; it has no list of them."""
  _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
  try:
    gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
  except NotImplementedError:
    return False
  return True


def _parse_kind(number: int, what: str) -> Kind:
  """Return the type of a tensor; ValueError with its name if it cannot be read."""
  if number not in _KINDS:
    raise ValueError(f'{what} has the type number {number}, which gguf does not know')
  if not can_dequantise(kind := Kind(number)):
    raise ValueError(f'{what} has the type {kind.name}, which gguf cannot dequantise')
  return kind


def _make_tensor(
  header: _Header, name: str, shape: tuple[int, ...], kind_number: int, start: int
) -> Tensor:
  """Return the tensor at byte `start`; ValueError if it exceeds the file."""
  what = f'{header.path}: tensor {name}'
  kind = _parse_kind(kind_number, what)
  block_size, bytes_per_block = gguf.GGML_QUANT_SIZES[kind]
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
  blocks = _Blocks(header.bytes, kind, row_size // block_size * bytes_per_block)
  # Partials: type checkers at run time, as in tests, would wrap each closure anew.
  read = functools.partial(_read, blocks, shape, start, stop)
  read_slice = functools.partial(_read_slice, blocks, shape, start)
  return Tensor(shape, read, slice_reader=read_slice)


class _Blocks(NamedTuple):
  """The bytes of a file, and how to read those of a tensor."""

  bytes: Any
  kind: Kind
  row_bytes: int


def _read(blocks: _Blocks, shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
  """Dequantise the bytes from `start` to `stop`."""
  rows = np.frombuffer(blocks.bytes[start:stop], np.uint8)
  rows = rows.reshape(-1, blocks.row_bytes)
  return gguf.dequantize(rows, blocks.kind).reshape(shape)


def _read_slice(
  blocks: _Blocks, shape: tuple[int, ...], start: int, index: Index
) -> np.ndarray:
  """Read a slice of the tensor at byte `start`; the first axis is sliced on disk."""
  if len(shape) == 1:
    return _read(blocks, shape, start, start + blocks.row_bytes)[index]
  first, *others = index
  width = math.prod(shape[1:-1]) * blocks.row_bytes  # bytes of an index of that axis
  places = (start + i * width for i in (first.start, first.stop))
  part = (first.stop - first.start, *shape[1:])
  return _read(blocks, part, *places)[:, *others]
