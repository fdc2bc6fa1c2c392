# SPDX-License-Identifier: Apache-2.0
"""The number of samples in an MP3 file, counted over its frame headers.

Without a Xing or VBRI header the decoding library estimates the length from the bit
rate of the first frame, and silently drops everything after it.
"""

_MPEG_1 = 3  # version 1; 2 is MPEG 2, 0 is MPEG 2.5
_RATES = {
  _MPEG_1: (44_100, 48_000, 32_000),
  2: (22_050, 24_000, 16_000),
  0: (11_025, 12_000, 8_000),
}
_KILOBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_MPEG_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_LAYER_3 = 1


def has_length_header(data: bytes) -> bool:
  """Return whether the first frame is a header that states the length."""
  return any(tag in data[:200] for tag in (b'Xing', b'Info', b'VBRI'))


def count_samples(data: bytes) -> int:
  """Return the samples per channel of the complete frames at the start of `data`."""
  samples = offset = 0
  while offset + 4 <= len(data):
    header = int.from_bytes(data[offset : offset + 4], 'big')
    version, layer = header >> 19 & 3, header >> 17 & 3
    bit_rate, rate, padding = header >> 12 & 15, header >> 10 & 3, header >> 9 & 1
    if header >> 21 != 0x7FF or version not in _RATES or layer != _LAYER_3:
      break
    if bit_rate in (0, 15) or rate == 3:
      break
    kilobits = (_KILOBITS if version == _MPEG_1 else _KILOBITS_MPEG_2)[bit_rate]
    length = 1_152 if version == _MPEG_1 else 576
    offset += length * kilobits * 125 // _RATES[version][rate] + padding
    samples += length
  return samples
