# SPDX-License-Identifier: Apache-2.0
"""Audio formats recognised by their first bytes, before any library parses a file."""

import struct

# (format tag, bits per sample) of a WAV file: integer and floating-point PCM.
_WAV_CODECS = {(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)}
_EXTENSIBLE = 0xFFFE
_EXTENSIBLE_GUID = bytes.fromhex('00000000001000800000aa00389b71')[1:]
_UNKNOWN_LENGTH = 0x7FFF_0000  # writers to a pipe state this size or a larger one


class AudioError(ValueError):
  """Audio that cannot be used: `NAME: FIELD is …, limit …`."""

  def __init__(self, name: str, field: str, problem: str):
    super().__init__(f'{name}: {field} {problem}')
    self.field = field


def sanitize(data: bytes, name: str) -> bytes:
  """Accept WAV, FLAC, Ogg and MP3 only; returns the bytes to decode.

  ID3 tags and unknown WAV chunks, which can hide another format, are removed.
  AudioError if the format is another or the data is truncated.
  """
  if not data:
    raise AudioError(name, 'content', 'is empty (0 bytes)')
  if data[:3] == b'ID3' and len(data) > 10:
    high, middle, low, last = (byte & 0x7F for byte in data[6:10])
    size = high << 21 | middle << 14 | low << 7 | last
    data = data[10 + size :].lstrip(b'\0')
  if data[:4] == b'RIFF' and data[8:12] == b'WAVE':
    return _canonical_wav(data, name)
  if data[:4] == b'OggS':
    return _complete_ogg(data, name)
  if data[:4] == b'fLaC' or (data[:1] == b'\xff' and data[1:2] >= b'\xe0'):
    return data
  raise AudioError(name, 'content', 'is not WAV, FLAC, Ogg or MP3')


def _canonical_wav(data: bytes, name: str) -> bytes:
  """Return the same WAV file with its format and data chunks only."""
  chunks, offset = {}, 12
  while offset + 8 <= len(data) and b'data' not in chunks:
    kind, size = struct.unpack_from('<4sI', data, offset)
    body = data[offset + 8 : offset + 8 + size]
    if len(body) < size and not (kind == b'data' and size >= _UNKNOWN_LENGTH):
      raise AudioError(name, 'content', f'is truncated: {len(body)} of {size} bytes')
    chunks.setdefault(kind, body)
    offset += 8 + size + size % 2
  if b'fmt ' not in chunks or b'data' not in chunks or len(chunks[b'fmt ']) < 16:
    raise AudioError(name, 'content', 'is truncated: the WAV file has no samples')
  format_chunk, samples = chunks[b'fmt '], chunks[b'data']
  tag, channels, rate, _, _, bits = struct.unpack_from('<HHIIHH', format_chunk)
  if tag == _EXTENSIBLE and format_chunk[26:40] == _EXTENSIBLE_GUID:
    tag = struct.unpack_from('<H', format_chunk, 24)[0]
  if (tag, bits) not in _WAV_CODECS:
    raise AudioError(
      name, 'codec', f'is WAV format {tag:#06x} of {bits} bits, limit PCM or float'
    )
  frame_bytes = channels * bits // 8 % 2**16  # `audio` checks the channels later
  bytes_per_second = rate * frame_bytes % 2**32
  header = struct.pack(
    '<HHIIHH', tag, channels, rate, bytes_per_second, frame_bytes, bits
  )
  body = b'WAVEfmt ' + struct.pack('<I', 16) + header
  body += b'data' + struct.pack('<I', len(samples)) + samples
  return b'RIFF' + struct.pack('<I', len(body)) + body


def _complete_ogg(data: bytes, name: str) -> bytes:
  """Return an Ogg stream unchanged; AudioError if its last page is not marked so."""
  last = data.rfind(b'OggS')
  segments = data[last + 26] if last + 27 <= len(data) else 0
  size = 27 + segments + sum(data[last + 27 : last + 27 + segments])
  if len(data) - last < size or not data[last + 5] & 4:
    raise AudioError(name, 'content', 'is truncated: the Ogg stream has no last page')
  return data
