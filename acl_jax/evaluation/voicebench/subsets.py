# SPDX-License-Identifier: Apache-2.0
"""The nine subsets of the leaderboard, as published in April 2025."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from acl_jax.evaluation.voicebench.reasoning import KINDS_OF_QUESTION
from data_pipeline.corpora.manifest import LineError, required_string, shorten

MAX_CHARACTERS = 20_000  # of a prompt or a reference
MAX_INSTRUCTIONS = 20  # of a prompt of ifeval
VERDICTS = {'no': 0, 'yes': 1, '(a)': 0, '(b)': 1}

# What an answer is scored by: columns that a subset has beside `audio` and `prompt`.
COLUMNS: dict[str, tuple[str, ...]] = {
  'rating': (),  # a judge, from 1 to 5
  'agreement': ('reference',),  # a judge, yes or no
  'letter': ('reference',),
  'verdict': ('id', 'reference'),
  'constraints': ('instruction_id_list', 'kwargs'),
  'refusal': (),
}
JUDGED = ('rating', 'agreement')


@dataclasses.dataclass(frozen=True)
class Subset:
  """A folder of VoiceBench.

  rows: as published. by_split: whether each split, a region, has that many rows.
  """

  name: str
  scored_by: str
  rows: int
  by_split: bool = False

  @property
  def task_name(self) -> str:
    return f'voicebench_{self.name.replace("-", "_")}'

  @property
  def columns(self) -> tuple[str, ...]:
    return ('audio', 'prompt', *COLUMNS[self.scored_by])


SUBSETS: dict[str, Subset] = {
  subset.name: subset
  for subset in (
    Subset('alpacaeval_full', 'rating', 636),
    Subset('commoneval', 'rating', 200),
    Subset('wildvoice', 'rating', 1_000),
    Subset('sd-qa', 'agreement', 553, by_split=True),
    Subset('mmsu', 'letter', 3_074),
    Subset('openbookqa', 'letter', 455),
    Subset('bbh', 'verdict', 1_000),
    Subset('ifeval', 'constraints', 345),
    Subset('advbench', 'refusal', 520),
  )
}
LEADERBOARD_REGION = 'usa'  # of sd-qa


def parse_expected(row: Mapping[str, Any], subset: Subset) -> Any:
  """Return what an answer to a row is scored by; LineError names a wrong column.

  rating: None. agreement: {'prompt', 'reference'}. letter: 'A' to 'D'. verdict: {'id',
  'verdict'}. constraints: as `acl_jax.evaluation.scoring.constraints` reads them.
  """
  match subset.scored_by:
    case 'agreement':
      return {'prompt': text_of(row, 'prompt'), 'reference': text_of(row, 'reference')}
    case 'rating':
      return {'prompt': text_of(row, 'prompt')}
    case 'letter':
      if (letter := text_of(row, 'reference')) not in ('A', 'B', 'C', 'D'):
        raise LineError('reference', f'is {shorten(letter)}, not A, B, C or D')
      return letter
    case 'verdict':
      return _parse_verdict(row)
    case 'constraints':
      return _parse_constraints(row)
  return None


def text_of(row: Mapping[str, Any], column: str) -> str:
  """Return a text column; LineError if it is missing, empty or too long."""
  text = required_string(dict(row), column).strip()
  if not text:
    raise LineError(column, 'is empty')
  if len(text) > MAX_CHARACTERS:
    raise LineError(
      column, f'has {len(text)} characters; the limit is {MAX_CHARACTERS}'
    )
  return text


def _parse_verdict(row: Mapping[str, Any]) -> dict[str, Any]:
  id, reference = text_of(row, 'id'), text_of(row, 'reference').lower()
  if not any(kind in id for kind in KINDS_OF_QUESTION):
    known = ', '.join(KINDS_OF_QUESTION)
    raise LineError('id', f'is {shorten(id)}, which names none of {known}')
  if reference not in VERDICTS:
    raise LineError('reference', f'is {shorten(reference)}, not yes, no, (a) or (b)')
  return {'id': id, 'verdict': VERDICTS[reference]}


def _parse_constraints(row: Mapping[str, Any]) -> list[dict[str, Any]]:
  ids, arguments = row.get('instruction_id_list'), row.get('kwargs')
  if not isinstance(ids, list) or not 0 < len(ids) <= MAX_INSTRUCTIONS:
    raise LineError(
      'instruction_id_list', f'is {shorten(ids)}, not a list of 1 to {MAX_INSTRUCTIONS}'
    )
  if not isinstance(arguments, list) or len(arguments) != len(ids):
    raise LineError('kwargs', f'is {shorten(arguments)}, not a list of {len(ids)}')
  from acl_jax.evaluation.scoring.ifeval import from_ifeval

  constraints = []
  for id, values in zip(ids, arguments, strict=True):
    if not isinstance(id, str):
      raise LineError('instruction_id_list', f'has {shorten(id)}, not a string')
    # Columns of other instructions are null; VoiceBench drops 0 and '' too.
    given = {key: value for key, value in _parse_object(values).items() if value}
    constraints.append(from_ifeval(id, {key: _whole(v) for key, v in given.items()}))
  return constraints


def _parse_object(values: Any) -> dict[str, Any]:
  if isinstance(values, str):
    try:
      values = json.loads(values)
    except (ValueError, RecursionError):
      values = None
  if not isinstance(values, dict):
    raise LineError('kwargs', f'has {shorten(values)}, not an object')
  return values


def _whole(value: Any) -> Any:
  """Return a float that is whole as an int: a column with nulls may hold floats."""
  is_whole = isinstance(value, float) and value.is_integer()
  return int(value) if is_whole else value
