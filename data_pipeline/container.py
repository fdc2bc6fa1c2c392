# SPDX-License-Identifier: Apache-2.0
"""The format of one record: a JSON header and named arrays.

Magic `ACLR`, the length of the JSON (u32), the JSON with the header and the name, dtype
and shape of every array, then the arrays in C order, little-endian.
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
  """A record that cannot be read, or a folder whose files are inconsistent."""


def pack(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
  """Serialize a JSON header and named arrays; equal inputs give equal bytes."""
  arrays = {name: np.asarray(array) for name, array in arrays.items()}
  for name, array in arrays.items():
    if array.dtype.name not in _DTYPES:
      raise ValueError(f'array {name!r}: dtype {array.dtype} cannot be stored')
  layout = [[name, a.dtype.name, list(a.shape)] for name, a in arrays.items()]
  text = json.dumps(
    {'header': header, 'arrays': layout}, separators=(',', ':'), allow_nan=False
  )
  parts = [_PREFIX.pack(_MAGIC, len(text)), text.encode()]
  for array in arrays.values():
    parts.append(array.astype(array.dtype.newbyteorder('<'), copy=False).tobytes())
  return b''.join(parts)


def unpack(record: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Deserialize a record; arrays are read-only views. RecordError if malformed."""
  if len(record) < _PREFIX.size:
    raise RecordError(f'has {len(record)} bytes, at least {_PREFIX.size} are needed')
  magic, length = _PREFIX.unpack_from(record)
  if magic != _MAGIC:
    raise RecordError(f'magic is {magic!r}, not {_MAGIC!r}')
  end = _PREFIX.size + length
  if end > len(record):
    raise RecordError(f'header ends at byte {end}, the record at {len(record)}')
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
    name, array, end = _read_array(record, entry, end)
    if name in arrays:
      raise RecordError(f'array {name!r} appears twice')
    arrays[name] = array
  if end != len(record):
    raise RecordError(f'{len(record) - end} bytes follow the last array')
  return header, arrays


def _read_array(record: bytes, entry: Any, offset: int) -> tuple[str, np.ndarray, int]:
  """Read one array of the layout at `offset`; returns its name and end offset too."""
  match entry:
    case [str(name), str(dtype), list(shape)] if (
      dtype in _DTYPES
      and len(shape) <= 8
      and all(type(size) is int and size >= 0 for size in shape)
    ):
      count = math.prod(shape)
    case _:
      raise RecordError(f'array description {str(entry)[:80]} is malformed')
  stored = np.dtype(dtype).newbyteorder('<')
  end = offset + count * stored.itemsize
  # NumPy fails on sizes beyond the machine's integers, even of empty arrays.
  if end > len(record) or max(shape, default=0) > len(record):
    raise RecordError(f'array {name!r} of {dtype}{shape} ends past byte {len(record)}')
  array = np.frombuffer(record, stored, count, offset) if count else np.empty(0, stored)
  array = array.reshape(shape)
  return name, array if sys.byteorder == 'little' else array.astype(dtype), end
