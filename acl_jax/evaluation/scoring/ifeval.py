# SPDX-License-Identifier: Apache-2.0
"""Constraints as IFEval's data names them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from acl_jax.evaluation.scoring.constraints import read_constraint
from data_pipeline.corpora.manifest import LineError, shorten


class Row(NamedTuple):
  """A kind of `KINDS`, and its fields by the names that IFEval gives them.

  relation: the name of 'less than' or 'at least', where IFEval has one; `bound` is then
  the number.
  """

  kind: str
  fields: Mapping[str, str] = {}
  bound: str = ''
  relation: str = ''


OPTIONS = ('My answer is yes.', 'My answer is no.', 'My answer is maybe.')

ROWS = {
  'keywords:existence': Row('keywords', {'keywords': 'words'}),
  'keywords:frequency': Row(
    'keyword_frequency', {'keyword': 'word'}, 'frequency', 'relation'
  ),
  'keywords:forbidden_words': Row('forbidden_words', {'forbidden_words': 'words'}),
  'keywords:letter_frequency': Row(
    'letter_frequency', {'letter': 'letter'}, 'let_frequency', 'let_relation'
  ),
  'language:response_language': Row('language', {'language': 'lang'}),
  'length_constraints:number_sentences': Row(
    'num_sentences', bound='num_sentences', relation='relation'
  ),
  'length_constraints:number_paragraphs': Row(
    'num_paragraphs', {'num_paragraphs': 'exactly'}
  ),
  'length_constraints:number_words': Row(
    'num_words', bound='num_words', relation='relation'
  ),
  'length_constraints:nth_paragraph_first_word': Row(
    'first_word',
    {'num_paragraphs': 'exactly', 'nth_paragraph': 'paragraph', 'first_word': 'word'},
  ),
  'detectable_content:number_placeholders': Row(
    'placeholders', {'num_placeholders': 'at_least'}
  ),
  'detectable_content:postscript': Row('postscript', {'postscript_marker': 'marker'}),
  'detectable_format:number_bullet_lists': Row('bullets', {'num_bullets': 'exactly'}),
  'detectable_format:constrained_response': Row('contains_option'),
  'detectable_format:number_highlighted_sections': Row(
    'highlights', {'num_highlights': 'at_least'}
  ),
  'detectable_format:multiple_sections': Row(
    'sections', {'section_spliter': 'marker', 'num_sections': 'at_least'}
  ),
  'detectable_format:json_format': Row('json'),
  'detectable_format:title': Row('title'),
  'combination:two_responses': Row('two_responses'),
  'combination:repeat_prompt': Row('repeat', {'prompt_to_repeat': 'phrase'}),
  'startend:end_checker': Row('end_phrase', {'end_phrase': 'phrase'}),
  'startend:quotation': Row('quotation'),
  'change_case:capital_word_frequency': Row(
    'capital_words', bound='capital_frequency', relation='capital_relation'
  ),
  'change_case:english_capital': Row('all_uppercase'),
  'change_case:english_lowercase': Row('all_lowercase'),
  'punctuation:no_comma': Row('no_commas'),
}


def from_ifeval(instruction_id: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """Return the constraint of an instruction of IFEval; LineError names a bad field."""
  if instruction_id not in ROWS:
    raise LineError(
      'instruction_id_list', f'contains {shorten(instruction_id)}, which is unknown'
    )
  row = ROWS[instruction_id]
  entry: dict[str, Any] = {'kind': row.kind}
  for theirs, ours in row.fields.items():
    if kwargs.get(theirs) is None:
      raise LineError(theirs, 'is missing')
    entry[ours] = kwargs[theirs]
  if row.kind == 'contains_option':  # theirs has these options only
    entry['options'] = list(OPTIONS)
  if row.bound:
    entry |= _read_bound(kwargs, row)
  return read_constraint(entry)


def _read_bound(kwargs: Mapping[str, Any], row: Row) -> dict[str, int]:
  count, relation = kwargs.get(row.bound), kwargs.get(row.relation)
  if type(count) is not int or count < 1:
    raise LineError(row.bound, f'is {shorten(count)}, not a number above 0')
  if relation == 'at least':
    return {'at_least': count}
  if relation == 'less than':
    return {'at_most': count - 1}
  raise LineError(
    row.relation, f"is {shorten(relation)}, not 'less than' or 'at least'"
  )
