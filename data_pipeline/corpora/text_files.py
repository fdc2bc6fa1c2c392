# SPDX-License-Identifier: Apache-2.0
"""Text as users' files hold it: UTF-8 with or without a BOM, lines, transcripts."""

import codecs
import gzip
import pathlib
import unicodedata
import zlib
from collections.abc import Iterator

MAX_LINE_BYTES = 4 << 20  # of a compressed file
# Of what a compressed file may decompress to: times its size, beyond some bytes.
MAX_RATIO, MIN_LIMIT_BYTES = 250, 64 << 20

_CATEGORIES = {'Cc', 'Cf', 'Zs', 'Zl', 'Zp'}  # control, format, spaces
# Letters and marks by their categories, but they show nothing by themselves.
_INVISIBLE = {'\u034f', '\u115f', '\u1160', '\u17b4', '\u17b5', '\u2800', '\u3164'}
_INVISIBLE |= {'\uffa0', *map(chr, range(0xFE00, 0xFE10))}


def is_blank(text: str) -> bool:
  """Return whether there is nothing to say in a text.

  It is empty, or all spaces, control characters and characters of no width.
  """
  return all(
    unicodedata.category(char) in _CATEGORIES or char in _INVISIBLE for char in text
  )


def decode(content: bytes) -> str:
  """Return the text in a file without its BOM; ValueError names the encoding."""
  check_not_utf16(content)
  try:
    return content.removeprefix(codecs.BOM_UTF8).decode()
  except UnicodeDecodeError:
    raise ValueError('is not UTF-8') from None


def check_not_utf16(content: bytes) -> None:
  """Raise ValueError if the beginning of a text is UTF-16."""
  if codec := find_utf16(content):
    raise ValueError(
      f'is UTF-16, not UTF-8; convert it: iconv -f {codec.upper()} -t UTF-8'
    )


def find_utf16(content: bytes) -> str:
  """Return the codec of a text in UTF-16 by its beginning; '' for another text."""
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    return 'utf-16'
  pairs = content[: len(content[:64]) // 2 * 2]
  first, second = pairs[::2], pairs[1::2]
  if len(first) < 2:
    return ''
  # Of letters in ASCII every other byte is NUL, and no other.
  if not any(second) and all(first):
    return 'utf-16le'
  return 'utf-16be' if not any(first) and all(second) else ''


def read_lines(path: pathlib.Path) -> Iterator[bytes]:
  """Yield the lines of a file, without a BOM; ValueError if they are UTF-16."""
  with path.open('rb') as lines:
    start = lines.read(64)
    try:
      check_not_utf16(start)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None
    lines.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
    yield from lines


def read_gzip_lines(path: pathlib.Path) -> Iterator[bytes]:
  """Yield the lines of a file that gzip has compressed, one in memory at a time.

  ValueError if it is damaged, or decompresses to far more than its size.
  """
  limit, total = MIN_LIMIT_BYTES + MAX_RATIO * path.stat().st_size, 0
  try:
    with gzip.open(path, 'rb') as lines:
      while line := lines.readline(MAX_LINE_BYTES):
        total += len(line)
        if len(line) == MAX_LINE_BYTES:
          raise ValueError(f'{path}: has a line of {MAX_LINE_BYTES} bytes or more')
        if total > limit:
          raise ValueError(f'{path}: decompresses to more than {limit} bytes')
        yield line
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    reason = ' '.join(str(error).split())[:100]
    raise ValueError(f'{path}: is damaged or truncated ({reason})') from None
