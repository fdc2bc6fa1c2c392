# SPDX-License-Identifier: Apache-2.0
"""Writes GGUF files, with a single tensor in memory at a time.

The `gguf` package writes the header and quantises.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from acl_jax.runtime.files import replace_atomically
from acl_jax.weights.gguf_file import MAX_METADATA_BYTES
from acl_jax.weights.tensor import Tensor

Kind = gguf.GGMLQuantizationType
KINDS = {
  'float32': Kind.F32,
  'float16': Kind.F16,
  'bfloat16': Kind.BF16,
  'q8_0': Kind.Q8_0,
}
ENTRY_BYTES = 64  # of a number or of a string, without its characters


class Stored(NamedTuple):
  """A tensor and the type in which a file holds it."""

  name: str
  tensor: Tensor
  kind: Kind

  @property
  def nbytes(self) -> int:
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
    return math.prod(self.tensor.shape) // block_size * block_bytes

  def encode(self) -> np.ndarray:
    """Read and convert; ValueError for a value that the type cannot represent."""
    array = np.asarray(self.tensor.read(), np.float32, order='C')
    largest = float(np.finfo(np.float16 if self.kind == Kind.F16 else np.float32).max)
    if array.size and not (-largest <= array.min() and array.max() <= largest):
      raise ValueError(
        f'{self.name} has values that {self.kind.name} cannot represent: they are not'
        f' finite, or above {largest:g}'
      )
    return gguf.quantize(array, self.kind)


def choose_kind(shape: Sequence[int], kind: Kind) -> Kind:
  """Return the type of a weight: matrices have `kind`, everything else is float32.

  Rows that are no multiple of a quantised block are float16, as llama.cpp has them.
  """
  if len(shape) < 2:
    return Kind.F32
  block_size, _ = gguf.GGML_QUANT_SIZES[kind]
  return kind if shape[-1] % block_size == 0 else Kind.F16


def metadata_bytes(metadata: Mapping[str, Any]) -> int:
  """Return about how many bytes metadata take."""

  def size(value: Any) -> int:
    if isinstance(value, list):
      return sum(map(size, value))
    return ENTRY_BYTES + (len(value.encode()) if isinstance(value, str) else 0)

  return sum(size(key) + size(value) for key, value in metadata.items())


def write(path: Path, metadata: Mapping[str, Any], tensors: Sequence[Stored]) -> None:
  """Write a file atomically.

  metadata: `general.architecture` and other entries; bool, int (32 bits), float, str or
  lists. ValueError if they are too long, or a tensor has values its type lacks.
  """
  if (size := metadata_bytes(metadata)) > MAX_METADATA_BYTES:
    raise ValueError(
      f'{path}: the metadata have about {size} bytes; the limit is {MAX_METADATA_BYTES}'
    )
  with replace_atomically(path) as temporary:
    writer = gguf.GGUFWriter(temporary, str(metadata['general.architecture']))
    try:
      for key, value in metadata.items():
        if key != 'general.architecture':  # the writer has added it
          _add(writer, key, value)
      for stored in tensors:
        dtype = np.dtype(np.float32)  # of what is quantised, which `raw_dtype` names
        shape, kind = stored.tensor.shape, stored.kind
        writer.add_tensor_info(stored.name, shape, dtype, stored.nbytes, kind)
      writer.write_header_to_file()
      writer.write_kv_data_to_file()
      writer.write_ti_data_to_file()
      for stored in tensors:
        writer.write_tensor_data(stored.encode())
    finally:
      writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
  """Add an entry with the type that llama.cpp's converter would choose."""
  if isinstance(value, bool):
    writer.add_bool(key, value)
  elif isinstance(value, int):
    writer.add_uint32(key, value)
  elif isinstance(value, float):
    writer.add_float32(key, value)
  elif isinstance(value, str):
    writer.add_string(key, value)
  else:
    writer.add_array(key, value)
