# SPDX-License-Identifier: Apache-2.0
"""Constraints on the layout of an answer; names of fields are IFEval's."""

import json
import re
from itertools import takewhile

_FENCES = ('```json', '```Json', '```JSON', '```')


def num_paragraphs(text: str, num_paragraphs: int) -> bool:
  """Whether `***` divides it so; blank at either end is none, elsewhere a fault."""
  paragraphs = _split(text, '***')
  return paragraphs is not None and len(paragraphs) == num_paragraphs


def first_word_of_paragraph(
  text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
  """Whether blank lines divide it so, and the nth paragraph, from 1, begins so."""
  paragraphs = text.split('\n\n')
  count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
  if not 1 <= nth_paragraph <= count == num_paragraphs:
    return False
  words = paragraphs[nth_paragraph - 1].split()
  if not words:
    return False
  word = words[0].lstrip("'").lstrip('"').lower()
  return ''.join(takewhile(lambda c: c not in '.,?!\'"', word)) == first_word.lower()


def num_sections(text: str, section_spliter: str, num_sections: int) -> bool:
  """Whether there are at least so many headings such as 'Section 1'."""
  headings = re.findall(rf'{re.escape(section_spliter)}\s?\d+', text)
  return len(headings) >= num_sections


def num_bullets(text: str, num_bullets: int) -> bool:
  """Whether exactly so many lines begin with '*' (not '**') or '-'."""
  stars = re.findall(r'^\s*\*[^*].*', text, re.MULTILINE)
  dashes = re.findall(r'^\s*-', text, re.MULTILINE)
  return len(stars) + len(dashes) == num_bullets


def num_highlights(text: str, num_highlights: int) -> bool:
  """Whether at least so many parts are within `*` or `**`."""
  singles = re.findall(r'\*([^\n*]*)\*', text)
  doubles = re.findall(r'\*\*([^\n*]*)\*\*', text)
  return sum(bool(part.strip()) for part in singles + doubles) >= num_highlights


def num_placeholders(text: str, num_placeholders: int) -> bool:
  """Whether at least so many parts are within square brackets."""
  return len(re.findall(r'\[.*?\]', text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
  """Whether the marker occurs, in any case; P.S. and P.P.S also with spaces."""
  spaced = {'P.S.': r'p\.\s?s\.', 'P.P.S': r'p\.\s?p\.\s?s'}
  pattern = spaced.get(postscript_marker, re.escape(postscript_marker.lower()))
  return re.search(pattern, text.lower()) is not None


def quotation(text: str) -> bool:
  """Whether it is within double quotation marks."""
  text = text.strip()
  return len(text) > 1 and text[0] == text[-1] == '"'


def json_format(text: str) -> bool:
  """Whether it is JSON, maybe within a fence."""
  text = text.strip()
  for fence in _FENCES:
    text = text.removeprefix(fence)
  try:
    json.loads(text.removesuffix('```').strip())
  except (ValueError, RecursionError):
    return False
  return True


def title(text: str) -> bool:
  """Whether a line contains something within << and >>."""
  titles = re.findall(r'<<[^\n]+>>', text)
  return any(title.lstrip('<').rstrip('>').strip() for title in titles)


def two_responses(text: str) -> bool:
  """Whether `******` divides it into two that differ."""
  responses = _split(text, '******')
  return responses is not None and len(responses) == 2 and responses[0] != responses[1]


def _split(text: str, divider: str) -> list[str] | None:
  """Return the parts, stripped, without blank ends; None if one between is blank."""
  parts = [part.strip() for part in text.split(divider)]
  if not all(parts[1:-1]):
    return None
  return [part for part in parts if part]
