# SPDX-License-Identifier: Apache-2.0
"""The checkable constraints of IFEval (arXiv 2311.07911).

A constraint is `{"kind": …}` and the fields of its kind, which have IFEval's names:

    num_words {num_words, relation}
    num_sentences {num_sentences, relation}
    num_paragraphs {num_paragraphs}
    num_sections {section_spliter, num_sections}
    first_word {num_paragraphs, nth_paragraph, first_word}
    keywords {keywords}
    forbidden_words {forbidden_words}
    keyword_frequency {keyword, frequency, relation}
    letter_frequency {letter, let_frequency, let_relation}
    capital_words {capital_frequency, capital_relation}
    uppercase {}   lowercase {}   no_commas {}   quotation {}   json {}   title {}
    num_bullets {num_bullets}   num_highlights {num_highlights}
    num_placeholders {num_placeholders}   postscript {postscript_marker}
    end_phrase {end_phrase}   starts_with {starter}   two_responses {}
    repeat {prompt_to_repeat}   language {language}   choice {options}

A relation is 'less than' or 'at least'. Paragraphs of `num_paragraphs` are divided by
`***`, those of `first_word` by a blank line. Words and phrases are taken literally,
never as regular expressions.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from acl_jax.evaluation.scoring import english, layout, wording
from data_pipeline.corpora.manifest import LineError, required_string, shorten

RELATIONS = ('less than', 'at least')
MAX_COUNT = 10_000
MAX_STRINGS = 100
MAX_CHARACTERS = 2_000  # of a word or phrase

Constraint = Mapping[str, Any]


class Kind(NamedTuple):
  """A kind of constraint: how each field is read, and whether a text follows it."""

  fields: dict[str, Callable[[Constraint, str], Any]]
  follows: Callable[..., bool]  # of the text and the fields


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
  values = {key: read(entry, key) for key, read in KINDS[name].fields.items()}
  return {'kind': name, **values}


def from_ifeval(instruction_id: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """Return the constraint of an `instruction_id` of IFEval and its `kwargs`."""
  if instruction_id not in IFEVAL_KINDS:
    raise LineError('instruction_id_list', f'contains {shorten(instruction_id)}')
  kind = IFEVAL_KINDS[instruction_id]
  options = {'options': IFEVAL_OPTIONS} if kind == 'choice' else {}
  return read_constraint({**kwargs, **options, 'kind': kind})


def follows(text: str, constraint: Constraint) -> bool:
  """Return whether an answer follows a constraint, strictly; a blank one does not."""
  values = {key: value for key, value in constraint.items() if key != 'kind'}
  return bool(text.strip()) and KINDS[constraint['kind']].follows(text, **values)


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


def _relation(entry: Constraint, key: str) -> str:
  value = required_string(dict(entry), key)
  if value not in RELATIONS:
    raise LineError(key, f"is {shorten(value)}, not 'less than' or 'at least'")
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


KINDS = {
  'num_words': Kind({'num_words': _count, 'relation': _relation}, wording.num_words),
  'num_sentences': Kind(
    {'num_sentences': _count, 'relation': _relation}, wording.num_sentences
  ),
  'keywords': Kind({'keywords': _phrases}, wording.keywords),
  'forbidden_words': Kind({'forbidden_words': _phrases}, wording.forbidden_words),
  'keyword_frequency': Kind(
    {'keyword': _phrase, 'frequency': _count, 'relation': _relation},
    wording.keyword_frequency,
  ),
  'letter_frequency': Kind(
    {'letter': _letter, 'let_frequency': _count, 'let_relation': _relation},
    wording.letter_frequency,
  ),
  'capital_words': Kind(
    {'capital_frequency': _count, 'capital_relation': _relation},
    wording.capital_words,
  ),
  'uppercase': Kind({}, wording.uppercase),
  'lowercase': Kind({}, wording.lowercase),
  'no_commas': Kind({}, wording.no_commas),
  'language': Kind({'language': _language}, wording.language),
  'starts_with': Kind({'starter': _phrase}, wording.starts_with),
  'end_phrase': Kind({'end_phrase': _phrase}, wording.ends_with),
  'repeat': Kind({'prompt_to_repeat': _phrase}, wording.repeats),
  'choice': Kind({'options': _phrases}, wording.chooses),
  'num_paragraphs': Kind({'num_paragraphs': _count}, layout.num_paragraphs),
  'first_word': Kind(
    {'num_paragraphs': _count, 'nth_paragraph': _count, 'first_word': _phrase},
    layout.first_word_of_paragraph,
  ),
  'num_sections': Kind(
    {'section_spliter': _phrase, 'num_sections': _count}, layout.num_sections
  ),
  'num_bullets': Kind({'num_bullets': _count}, layout.num_bullets),
  'num_highlights': Kind({'num_highlights': _count}, layout.num_highlights),
  'num_placeholders': Kind({'num_placeholders': _count}, layout.num_placeholders),
  'postscript': Kind({'postscript_marker': _phrase}, layout.postscript),
  'quotation': Kind({}, layout.quotation),
  'json': Kind({}, layout.json_format),
  'title': Kind({}, layout.title),
  'two_responses': Kind({}, layout.two_responses),
}

IFEVAL_OPTIONS = ['My answer is yes.', 'My answer is no.', 'My answer is maybe.']
IFEVAL_KINDS = {
  'keywords:existence': 'keywords',
  'keywords:frequency': 'keyword_frequency',
  'keywords:forbidden_words': 'forbidden_words',
  'keywords:letter_frequency': 'letter_frequency',
  'language:response_language': 'language',
  'length_constraints:number_sentences': 'num_sentences',
  'length_constraints:number_paragraphs': 'num_paragraphs',
  'length_constraints:number_words': 'num_words',
  'length_constraints:nth_paragraph_first_word': 'first_word',
  'detectable_content:number_placeholders': 'num_placeholders',
  'detectable_content:postscript': 'postscript',
  'detectable_format:number_bullet_lists': 'num_bullets',
  'detectable_format:constrained_response': 'choice',
  'detectable_format:number_highlighted_sections': 'num_highlights',
  'detectable_format:multiple_sections': 'num_sections',
  'detectable_format:json_format': 'json',
  'detectable_format:title': 'title',
  'combination:two_responses': 'two_responses',
  'combination:repeat_prompt': 'repeat',
  'startend:end_checker': 'end_phrase',
  'startend:quotation': 'quotation',
  'change_case:capital_word_frequency': 'capital_words',
  'change_case:english_capital': 'uppercase',
  'change_case:english_lowercase': 'lowercase',
  'punctuation:no_comma': 'no_commas',
}
