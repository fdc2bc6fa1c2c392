# SPDX-License-Identifier: Apache-2.0
"""Constraints on the layout of an answer, as IFEval checks them."""

import json
import re
from itertools import takewhile

_FENCES = ('```json', '```Json', '```JSON', '```')
_POSTSCRIPTS = {'P.S.': r'p\.\s?s\.', 'P.P.S': r'p\.\s?p\.\s?s'}  # spaces may be within
INVALID = -1  # a count that no bound allows


def count_paragraphs(text: str) -> int:
  """Return the number of parts that `***` divides it into; INVALID if one is blank.

  Blank ends are no parts.
  """
  paragraphs = _split(text, '***')
  return INVALID if paragraphs is None else len(paragraphs)


def count_paragraphs_with_first_word(text: str, first_word: str, number: int) -> int:
  """Return the number of paragraphs that are not blank; blank lines divide them.

  INVALID if paragraph `number`, from 1, blank ones counted, does not begin with the
  word, in any case.
  """
  paragraphs = text.split('\n\n')
  count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
  words = paragraphs[number - 1].split() if 1 <= number <= count else []
  word = words[0].lstrip("'").lstrip('"').lower() if words else ''
  word = ''.join(takewhile(lambda c: c not in '.,?!\'"', word))
  return count if word == first_word.lower() else INVALID


def count_sections(text: str, marker: str) -> int:
  """Return the number of headings: the marker and a number, as in 'Section 1'."""
  return len(re.findall(rf'{re.escape(marker)}\s?\d+', text))


def count_bullets(text: str) -> int:
  """Return the number of lines that begin with '-' or with one '*'."""
  stars = re.findall(r'^\s*\*[^*].*', text, re.MULTILINE)
  dashes = re.findall(r'^\s*-', text, re.MULTILINE)
  return len(stars) + len(dashes)


def count_highlights(text: str) -> int:
  """Return the number of parts within `*` or `**`."""
  singles = re.findall(r'\*([^\n*]*)\*', text)
  doubles = re.findall(r'\*\*([^\n*]*)\*\*', text)
  return sum(bool(part.strip()) for part in singles + doubles)


def count_placeholders(text: str) -> int:
  """Return the number of parts within square brackets."""
  return len(re.findall(r'\[.*?\]', text))


def has_postscript(text: str, marker: str) -> bool:
  """Return whether the marker occurs, in any case."""
  pattern = _POSTSCRIPTS.get(marker, re.escape(marker.lower()))
  return re.search(pattern, text.lower()) is not None


def is_quotation(text: str) -> bool:
  """Return whether it is within double quotation marks."""
  text = text.strip()
  return len(text) > 1 and text[0] == text[-1] == '"'


def is_json(text: str) -> bool:
  """Return whether it is JSON, maybe within a fence."""
  text = text.strip()
  for fence in _FENCES:
    text = text.removeprefix(fence)
  try:
    json.loads(text.removesuffix('```').strip())
  except (ValueError, RecursionError):
    return False
  return True


def has_title(text: str) -> bool:
  """Return whether a line contains something within << and >>."""
  titles = re.findall(r'<<[^\n]+>>', text)
  return any(title.lstrip('<').rstrip('>').strip() for title in titles)


def has_two_responses(text: str) -> bool:
  """Return whether `******` divides it into two parts, which differ."""
  parts = _split(text, '******')
  return parts is not None and len(parts) == 2 and parts[0] != parts[1]


def _split(text: str, divider: str) -> list[str] | None:
  """Return the parts, stripped, without blank ends; None if one between is blank."""
  parts = [part.strip() for part in text.split(divider)]
  return [part for part in parts if part] if all(parts[1:-1]) else None
