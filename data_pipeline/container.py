# SPDX-License-Identifier: Apache-2.0
"""The bytes of one record: a JSON header and named arrays.

Magic `ACLR`, the length of the JSON (u32), the JSON with the header and every array's
name, dtype and shape, then the arrays themselves, row by row, little-endian.
"""

import json
import math
import struct
import sys
from typing import Any

import numpy as np

_MAGIC = b'ACLR'
_PREFIX = struct.Struct('<4sI')  # magic, length of the JSON that follows
_DTYPES = {
  'bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64',
  'float16', 'float32', 'float64',
}  # fmt: skip


class RecordError(ValueError):
  """A record that cannot be read, or a folder whose records do not fit together."""


def pack(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
  """Serializes a JSON-able header and named arrays; equal input gives equal bytes."""
  arrays = {name: np.asarray(array) for name, array in arrays.items()}
  for name, array in arrays.items():
    if array.dtype.name not in _DTYPES:
      raise ValueError(f'array {name!r}: dtype {array.dtype} cannot be stored')
  layout = [[name, a.dtype.name, list(a.shape)] for name, a in arrays.items()]
  text = json.dumps(
    {'header': header, 'arrays': layout}, separators=(',', ':'), allow_nan=False
  )
  little = (a.astype(a.dtype.newbyteorder('<'), copy=False) for a in arrays.values())
  return b''.join([
    _PREFIX.pack(_MAGIC, len(text)),
    text.encode(),
    *(array.tobytes() for array in little),
  ])  # fmt: skip


def unpack(record: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The inverse of `pack`; arrays are read-only views. RecordError on any bad byte."""
  if len(record) < _PREFIX.size:
    raise RecordError(f'{len(record)} bytes, fewer than the {_PREFIX.size} of a prefix')
  magic, length = _PREFIX.unpack_from(record)
  if magic != _MAGIC:
    raise RecordError(f'magic is {magic!r}, not {_MAGIC!r}')
  end = _PREFIX.size + length
  if end > len(record):
    raise RecordError(f'header ends at byte {end} of {len(record)}')
  try:
    content = json.loads(record[_PREFIX.size : end].decode())
  except (ValueError, RecursionError) as error:
    raise RecordError(f'header is not JSON ({error})') from None
  match content:
    case {'header': dict(header), 'arrays': list(layout)} if len(content) == 2:
      pass
    case _:
      raise RecordError("header lacks 'header' and 'arrays'")
  arrays = {}
  for entry in layout:
    name, array, end = _view(record, entry, end)
    if name in arrays:
      raise RecordError(f'array {name!r} appears twice')
    arrays[name] = array
  if end != len(record):
    raise RecordError(f'{len(record) - end} bytes follow the last array')
  return header, arrays


def _view(record: bytes, entry: Any, offset: int) -> tuple[str, np.ndarray, int]:
  """One array of the layout, read at `offset`; returns the offset behind it too."""
  match entry:
    case [str(name), str(dtype), list(shape)] if (
      dtype in _DTYPES
      and len(shape) <= 8
      and all(type(size) is int and size >= 0 for size in shape)
    ):
      count = math.prod(shape)
    case _:
      raise RecordError(f'array description {str(entry)[:80]} is malformed')
  kind = np.dtype(dtype).newbyteorder('<')
  end = offset + count * kind.itemsize
  # A size beyond the machine's would not survive numpy, zero elements or not.
  if end > len(record) or max(shape, default=0) > len(record):
    raise RecordError(f'array {name!r} of {dtype}{shape} ends past byte {len(record)}')
  array = np.frombuffer(record, kind, count, offset) if count else np.empty(0, kind)
  array = array.reshape(shape)
  return name, array if sys.byteorder == 'little' else array.astype(dtype), end
