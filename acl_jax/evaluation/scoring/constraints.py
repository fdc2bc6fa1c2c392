# SPDX-License-Identifier: Apache-2.0
"""The checkable constraints of IFEval (arXiv 2311.07911).

A constraint is `{"kind": …}` and the fields of its kind; bounds include their ends:

    num_words, num_sentences {at_least | at_most}   num_paragraphs, bullets {exactly}
    keywords, forbidden_words {words}   keyword_frequency {word, at_least | at_most}
    letter_frequency {letter, at_least | at_most}   placeholders {at_least}
    starts_with, end_phrase {phrase}   postscript {marker}   choose {options}
    all_uppercase, all_lowercase, no_commas, quotation, json, title, two_responses {}
    language {lang}   capital_words {at_least | at_most}   highlights {at_least}
    sections {marker, at_least}   first_word {word, paragraph, exactly}
    repeat {phrase}   contains_option {options}

Paragraphs of `num_paragraphs` are divided by `***`, those of `first_word` (`exactly` so
many) by blank lines. Words and phrases are taken literally, never as regular
expressions.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from acl_jax.evaluation.scoring import english, layout, wording
from data_pipeline.corpora.manifest import LineError, required_string, shorten

MAX_COUNT = 10_000
MAX_STRINGS = 100
MAX_CHARACTERS = 2_000  # of a word or phrase
BOUNDS: dict[str, Callable[[int, int], bool]] = {
  'at_least': lambda count, bound: count >= bound,
  'at_most': lambda count, bound: count <= bound,
  'exactly': lambda count, bound: count == bound,
}

Constraint = Mapping[str, Any]
Reader = Callable[[Constraint, str], Any]


class Kind(NamedTuple):
  """A kind of constraint.

  measure: of a text and the fields; a count if there are bounds, else whether the text
  follows. fields: how each is read. bounds: exactly one of these is given.
  """

  measure: Callable[..., int]
  fields: Mapping[str, Reader] = {}
  bounds: tuple[str, ...] = ()


def read_constraint(entry: object) -> dict[str, Any]:
  """Return a constraint with the fields of its kind only, checked.

  Raises LineError for an unknown kind and for a field that is missing or wrong.
  """
  if not isinstance(entry, dict):
    raise LineError('constraints', f'contains {shorten(entry)}, not an object')
  name = entry.get('kind')
  if not isinstance(name, str) or name not in KINDS:
    raise LineError(
      'kind', f'is {shorten(name)}, not a constraint; known: {" ".join(KINDS)}'
    )
  kind = KINDS[name]
  values = {key: read(entry, key) for key, read in kind.fields.items()}
  given = [key for key in kind.bounds if entry.get(key) is not None]
  if kind.bounds and len(given) != 1:
    problem = f'has {len(given)} of {" and ".join(kind.bounds)}; it must have one'
    raise LineError(name, problem)
  return {'kind': name, **values, **{key: _count(entry, key) for key in given}}


def follows(text: str, constraint: Constraint) -> bool:
  """Return whether an answer follows a constraint, strictly; a blank one does not."""
  if not text.strip():
    return False
  kind = KINDS[constraint['kind']]
  value = kind.measure(text, *(constraint[key] for key in kind.fields))
  bounds = [BOUNDS[key](value, constraint[key]) for key in BOUNDS if key in constraint]
  return all(bounds) if bounds else bool(value)


def follows_loosely(text: str, constraint: Constraint) -> bool:
  """Return whether any of the variants of an answer follows a constraint.

  They lack the first line, the last, both or none, and all asterisks or none.
  """
  lines = text.split('\n')
  cuts = [lines[1:], lines[:-1], lines[1:-1]]
  variants = [text, *('\n'.join(cut).strip() for cut in cuts)]
  variants += [variant.replace('*', '') for variant in variants]
  return any(follows(variant, constraint) for variant in variants)


def _count(entry: Constraint, key: str) -> int:
  value = entry.get(key)
  if value is None:
    raise LineError(key, 'is missing')
  if type(value) is not int or not 0 <= value <= MAX_COUNT:
    raise LineError(key, f'is {shorten(value)}, not a number from 0 to {MAX_COUNT:,}')
  return value


def _phrase(entry: Constraint, key: str) -> str:
  value = required_string(dict(entry), key).strip()
  if not 0 < len(value) <= MAX_CHARACTERS:
    raise LineError(
      key, f'has {len(value):,} characters; it must have 1 to {MAX_CHARACTERS:,}'
    )
  return value


def _phrases(entry: Constraint, key: str) -> list[str]:
  values = entry.get(key)
  if values is None:
    raise LineError(key, 'is missing')
  if not isinstance(values, list) or not 0 < len(values) <= MAX_STRINGS:
    raise LineError(
      key, f'is {shorten(values)}, not a list of 1 to {MAX_STRINGS} strings'
    )
  if None in values:
    raise LineError(key, 'contains null')
  return [_phrase({key: value}, key) for value in values]


def _letter(entry: Constraint, key: str) -> str:
  value = _phrase(entry, key)
  if len(value) > 1:
    raise LineError(key, f'is {shorten(value)}, not one letter')
  return value


def _language(entry: Constraint, key: str) -> str:
  value = _phrase(entry, key)
  if value not in (known := english.known_languages()):
    raise LineError(
      key, f'is {shorten(value)}, which langdetect does not know; known: {known}'
    )
  return value


_RANGE = ('at_least', 'at_most')

KINDS = {
  'num_words': Kind(english.count_words, bounds=_RANGE),
  'num_sentences': Kind(english.count_sentences, bounds=_RANGE),
  'num_paragraphs': Kind(layout.count_paragraphs, bounds=('exactly',)),
  'bullets': Kind(layout.count_bullets, bounds=('exactly',)),
  'keywords': Kind(wording.has_keywords, {'words': _phrases}),
  'forbidden_words': Kind(wording.lacks_words, {'words': _phrases}),
  'keyword_frequency': Kind(wording.count_keyword, {'word': _phrase}, _RANGE),
  'letter_frequency': Kind(wording.count_letter, {'letter': _letter}, _RANGE),
  'placeholders': Kind(layout.count_placeholders, bounds=('at_least',)),
  'starts_with': Kind(wording.starts_with, {'phrase': _phrase}),
  'end_phrase': Kind(wording.ends_with, {'phrase': _phrase}),
  'postscript': Kind(layout.has_postscript, {'marker': _phrase}),
  'choose': Kind(wording.chooses, {'options': _phrases}),
  'all_uppercase': Kind(wording.is_uppercase),
  'all_lowercase': Kind(wording.is_lowercase),
  'no_commas': Kind(wording.has_no_commas),
  'quotation': Kind(layout.is_quotation),
  'json': Kind(layout.is_json),
  'title': Kind(layout.has_title),
  'two_responses': Kind(layout.has_two_responses),
  'language': Kind(english.has_language, {'lang': _language}),
  'capital_words': Kind(english.count_capital_words, bounds=_RANGE),
  'highlights': Kind(layout.count_highlights, bounds=('at_least',)),
  'sections': Kind(layout.count_sections, {'marker': _phrase}, ('at_least',)),
  'first_word': Kind(
    layout.count_paragraphs_with_first_word,
    {'word': _phrase, 'paragraph': _count},
    ('exactly',),
  ),
  'repeat': Kind(wording.repeats, {'phrase': _phrase}),
  'contains_option': Kind(wording.contains_option, {'options': _phrases}),
}
