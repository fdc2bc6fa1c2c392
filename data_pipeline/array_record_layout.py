# SPDX-License-Identifier: Apache-2.0
"""Where the records of an uncompressed ArrayRecord file are.

The file is a sequence of Riegeli's chunks, interrupted by a header of 24 bytes at every
multiple of 64 KiB. A chunk of a file with `group_size:1` is a record. The last block of
64 KiB begins with a chunk that has the offset of the footer. The footer is a chunk: its
first record has counts, and each of the others the offset of a chunk.
"""

import struct
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

BLOCK_BYTES, BLOCK_HEADER_BYTES = 1 << 16, 24
MAX_OFFSET = 1 << 62

# Hashes of header and data are verified by the library, not here. The last of the
# numbers but one has the number of records above eight bits of type.
_CHUNK_HEADER = struct.Struct('<8xQ8xQ8x')  # size of data, type and records
_SIMPLE, _UNCOMPRESSED = b'r'[0], 0
_OFFSET = 0x08  # tag of the field `chunk_offset` and of `footer_offset`: 1, a varint
_NUM_RECORDS = 0x18  # of a chunk


def find_footer(content: bytes, size: int) -> int:
  """Return the offset of the footer; ValueError if there is none.

  content: the end of a file of `size` bytes, at least its last block.
  """
  if size < BLOCK_BYTES:
    raise ValueError(f'{size} bytes, at least {BLOCK_BYTES} are needed')
  [postscript, *_] = _read_records(content[-BLOCK_BYTES:], size - BLOCK_BYTES) or [b'']
  values = _varints(postscript)
  tag, offset = next(values, 0), next(values, 0)
  if tag != _OFFSET or not 0 < offset < size - BLOCK_BYTES:
    raise ValueError(f'its footer would be at {offset}')
  return offset


def read_chunk_offsets(content: bytes, start: int) -> Int64[np.ndarray, ' k']:
  """Return the offset of every record, and of the footer; ValueError if malformed.

  content: the end of a file from the footer on, which is at `start`.
  """
  entries = _read_records(content, start)[1:]
  offsets = []
  for entry in entries:
    values = list(_varints(entry))
    fields = dict(zip(values[::2], values[1::2], strict=False))
    if fields.get(_NUM_RECORDS) != 1 or _OFFSET not in fields:
      raise ValueError('not written with group_size:1')
    offsets.append(fields[_OFFSET])
  offsets.append(start)
  if any(a >= b for a, b in zip(offsets, offsets[1:], strict=False)):
    raise ValueError('its offsets do not increase')
  return np.asarray(offsets, np.int64)


def _read_records(content: bytes, start: int) -> list[bytes]:
  """Return the records of a simple, uncompressed chunk at the start of `content`.

  start: its offset in the file.
  """
  content = _without_block_headers(content, start)
  if len(content) < _CHUNK_HEADER.size:
    raise ValueError('a chunk is cut off')
  size, kind = _CHUNK_HEADER.unpack_from(content)
  count = kind >> 8
  data = content[_CHUNK_HEADER.size : _CHUNK_HEADER.size + size]
  if len(data) < size or kind & 0xFF != _SIMPLE or not data or data[0] != _UNCOMPRESSED:
    raise ValueError('a chunk is cut off, or not written as uncompressed')
  # After the compression: the size of the lengths, the lengths, and the records.
  values = _varints(data, 1)
  lengths_size = next(values, 0)
  position = 1 + _varint_size(lengths_size)
  lengths = list(_varints(data[position : position + lengths_size]))
  position += lengths_size
  if len(lengths) != count or position + sum(lengths) != size:
    raise ValueError('the lengths in a chunk do not add up')
  ends = position + np.cumsum(np.asarray(lengths, np.int64))
  return [data[end - n : end] for end, n in zip(ends.tolist(), lengths, strict=True)]


def _without_block_headers(content: bytes, start: int) -> bytes:
  """Remove the header at every multiple of BLOCK_BYTES. start: offset in the file."""
  parts, position = [], 0
  while position < len(content):
    block_position = (start + position) % BLOCK_BYTES
    if not block_position:
      position, block_position = position + BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES
    end = position + BLOCK_BYTES - block_position
    parts.append(content[position:end])
    position = end
  return b''.join(parts)


def _varints(data: bytes, position: int = 0) -> Iterator[int]:
  """Yield numbers in protobuf's encoding; ValueError if the last is cut off."""
  value = shift = 0
  for byte in memoryview(data)[position:]:
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      if value > MAX_OFFSET:
        raise ValueError(f'{value} is no offset')
      yield value
      value = shift = 0
    elif (shift := shift + 7) > 63:
      raise ValueError('a number is too long')
  if shift:
    raise ValueError('a number is cut off')


def _varint_size(value: int) -> int:
  return max(1, (value.bit_length() + 6) // 7)
