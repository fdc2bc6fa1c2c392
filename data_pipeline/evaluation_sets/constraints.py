# SPDX-License-Identifier: Apache-2.0
"""Kinds of `constraints` in instructions.jsonl, and the parameters of each.

The scorer of the task `instructions` knows the same names. They are those kinds of
IFEval (Zhou et al. 2023) that can be spoken. `at_least` and `at_most` bound a
count, and both ends are allowed.

  num_words, num_sentences {at_least | at_most}   num_paragraphs, bullets {exactly}
  keywords, forbidden_words {words}   keyword_frequency {word, at_least | at_most}
  letter_frequency {letter, at_least}   placeholders {at_least}   choose {options}
  starts_with, end_phrase {phrase}   postscript {marker}   language {lang}
  all_uppercase, all_lowercase, no_commas, quotation, json, title, two_responses {}
"""

from collections.abc import Mapping
from typing import Any

_BOUNDS = frozenset({'at_least', 'at_most'})
# The parameters that are required, and those of which exactly one is.
KINDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
  'num_words': (frozenset(), _BOUNDS),
  'num_sentences': (frozenset(), _BOUNDS),
  'keyword_frequency': (frozenset({'word'}), _BOUNDS),
} | {
  kind: (frozenset(names.split()), frozenset())
  for kind, names in {
    'num_paragraphs': 'exactly',
    'all_uppercase': '',
    'all_lowercase': '',
    'keywords': 'words',
    'forbidden_words': 'words',
    'bullets': 'exactly',
    'end_phrase': 'phrase',
    'json': '',
    'no_commas': '',
    'quotation': '',
    'postscript': 'marker',
    'starts_with': 'phrase',
    'two_responses': '',
    'placeholders': 'at_least',
    'title': '',
    'letter_frequency': 'letter at_least',
    'choose': 'options',
    'language': 'lang',
  }.items()
}
_COUNTS = ('at_least', 'at_most', 'exactly')


def check_constraint(constraint: Mapping[str, Any]) -> None:
  """Raise ValueError unless a constraint has a known kind and its parameters."""
  kind = constraint.get('kind')
  if kind not in KINDS:
    raise ValueError(
      f'constraints: kind {kind!r} is unknown; known: {", ".join(KINDS)}'
    )
  required, one_of = KINDS[kind]
  given = constraint.keys() - {'kind'}
  if not required <= given or given - required - one_of:
    raise ValueError(
      f'constraints: {kind} has the parameters {sorted(given)}; it requires'
      f' {sorted(required)}'
    )
  if one_of and len(given & one_of) != 1:
    raise ValueError(f'constraints: {kind} requires one of {sorted(one_of)}')
  for name in given:
    value = constraint[name]
    expected = int if name in _COUNTS else list if name in ('words', 'options') else str
    if type(value) is not expected or not value:
      raise ValueError(
        f'constraints: {name} of {kind} is {value!r}, not a nonempty'
        f' {expected.__name__}'
      )
