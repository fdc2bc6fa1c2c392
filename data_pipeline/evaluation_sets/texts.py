# SPDX-License-Identifier: Apache-2.0
"""The sets that come with the code: their names, and their lines, checked."""

import collections
import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.evaluation_sets.constraints import check_constraint

FOLDER = Path(__file__).parent
LANGUAGES = ('en', 'fr', 'es', 'it', 'de')  # of the translations
SETS = {  # name: number of lines
  'questions': 200,
  'two_facts': 100,
  'choices': 100,
  'instructions': 60,
  'conversations': 60,
  'contexts': 60,
  'passages': 20,
  'translations': 100,
}
Entry = dict[str, Any]


def read_set(name: str) -> list[Entry]:
  """Return the lines of a set; ValueError names a line that is wrong, and why."""
  path = FOLDER / f'{name}.jsonl'
  entries = []
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    try:
      entries.append(json.loads(line))
    except ValueError as error:
      raise ValueError(f'{path.name} line {number}: is not JSON ({error})') from None
  check_set(name, entries)
  return entries


def check_set(name: str, entries: Sequence[Entry]) -> None:
  """Raise ValueError unless the lines of set `name` are complete and balanced."""
  ids: dict[str, int] = {}
  contents: dict[str, int] = {}
  for number, entry in enumerate(entries, 1):
    try:
      _check_line(name, number, entry)
      content = json.dumps({k: v for k, v in entry.items() if k != 'id'})
      for seen, key, what in ((ids, entry['id'], 'id'), (contents, content, 'text')):
        if (first := seen.setdefault(key, number)) != number:
          raise ValueError(f'has the {what} of line {first}')
    except ValueError as error:
      raise ValueError(f'{name}.jsonl line {number}: {error}') from None
  _check_balance(name, entries)


def _check_line(name: str, number: int, entry: Entry) -> None:
  if entry.get('id') != (id := f'{name}-{number:03d}'):
    raise ValueError(f'id is {entry.get("id")!r}; it must be {id!r}')
  if name == 'translations':
    fields = LANGUAGES
  else:
    fields = () if name == 'conversations' else ('text',)
  for field in fields:
    _check_string(entry, field)
  match name:
    case 'questions' | 'two_facts':
      _check_strings(entry, 'answers')
      _check_no_answer(entry, 'text', entry['text'])
    case 'choices':
      _check_options(entry)
    case 'instructions':
      if not entry.get('constraints'):
        raise ValueError('constraints is empty')
      for constraint in entry['constraints']:
        check_constraint(constraint)
    case 'conversations':
      _check_conversation(entry)
    case 'contexts':
      _check_context(entry)
    case 'passages':
      _check_passage(entry)


def _check_string(entry: Mapping[str, Any], field: str) -> None:
  value = entry.get(field)
  if not isinstance(value, str) or not value or value != ' '.join(value.split()):
    raise ValueError(f'{field} is {value!r}, not a string of words with single spaces')


def _check_strings(entry: Mapping[str, Any], field: str) -> None:
  values = entry.get(field)
  if not isinstance(values, list) or not values:
    raise ValueError(f'{field} is {values!r}, not a list of strings')
  for number, value in enumerate(values):
    _check_string({f'{field}[{number}]': value}, f'{field}[{number}]')
  if len(set(values)) < len(values):
    raise ValueError(f'{field} is {values!r}, with a string that occurs twice')


def split_words(text: str) -> list[str]:
  """Return the words of a text in lower case, without punctuation."""
  text = text.lower().replace('-', ' ')
  return text.translate(str.maketrans('', '', string.punctuation)).split()


def _check_no_answer(entry: Entry, field: str, text: str) -> None:
  """Raise ValueError if an answer occurs in a text before it."""
  padded = f' {" ".join(split_words(text))} '
  for answer in entry['answers']:
    if f' {" ".join(split_words(answer))} ' in padded:
      raise ValueError(f'{field} already has the answer {answer!r}')


def _check_options(entry: Entry) -> None:
  _check_strings(entry, 'options')
  options, answer = entry['options'], entry.get('answer')
  letters = string.ascii_uppercase[: len(options)]
  if not 3 <= len(options) <= 4:
    raise ValueError(f'options has {len(options)} strings; it must have 3 or 4')
  if not isinstance(answer, str) or len(answer) != 1 or answer not in letters:
    raise ValueError(f'answer is {answer!r}, not the letter of an option, {letters}')
  spoken = ' '.join(f'{a}, {b}.' for a, b in zip(letters, options, strict=True))
  if not entry['text'].endswith(f'? {spoken}'):
    raise ValueError(f'text must be a question followed by {spoken!r}')


def _check_conversation(entry: Entry) -> None:
  _check_strings(entry, 'answers')
  turns, pattern = entry['turns'], ''
  for number, turn in enumerate(turns):
    role = ('user', 'assistant')[number % 2]
    if turn.get('role') != role:
      raise ValueError(f'turns[{number}].role is {turn.get("role")!r}, not {role!r}')
    content = turn['content']
    parts = [{'text': content}] if isinstance(content, str) else content
    for part in parts:
      _check_string(part, 'text')
    if role == 'user':
      pattern += 'a' if any(part.get('say') for part in parts) else 't'
  if turns[-1]['role'] != 'user' or not 2 <= len(pattern) <= 4:
    raise ValueError(f'turns has {len(turns)} turns; it must have 3, 5 or 7')
  if entry.get('pattern') != pattern:
    raise ValueError(f'pattern is {entry.get("pattern")!r}; the turns are {pattern!r}')
  earlier, last = turns[:-1], turns[-1]['content']
  _check_no_answer(entry, 'the last turn', _written(last))
  words = ' '.join(
    _written(turn['content']) for turn in earlier if turn['role'] == 'user'
  )
  if not any(set(split_words(words)) >= set(split_words(a)) for a in entry['answers']):
    raise ValueError('no earlier turn of the user has any of the answers')


def _written(content: str | list[Entry]) -> str:
  if isinstance(content, str):
    return content
  return ' '.join(part['text'] for part in content)


def _check_context(entry: Entry) -> None:
  _check_strings(entry, 'answers')
  _check_strings(entry, 'entities')
  _check_no_answer(entry, 'text', entry['text'])
  for entity in entry['entities']:
    if not set(split_words(entity)) <= set(split_words(_stem(entry['text']))):
      raise ValueError(f'entities has {entity!r}, which the text does not have')
  for kind in ('coarse', 'exact'):
    _check_string(entry.get('context', {}), kind)
    _check_no_answer(entry, f'context.{kind}', entry['context'][kind])


def _stem(text: str) -> str:
  return text.replace("'s", '')  # "Tolkien's" has Tolkien


def _check_passage(entry: Entry) -> None:
  _check_string(entry, 'reference')
  if entry.get('task') != 'summarisation':
    raise ValueError(f'task is {entry.get("task")!r}, not summarisation')
  words = len(entry['text'].split())
  if not 150 <= words <= 400:
    raise ValueError(f'text has {words} words; it must have 150 to 400')


def _check_balance(name: str, entries: Sequence[Entry]) -> None:
  """Raise ValueError unless letters, or patterns of a length, are equally frequent."""
  groups: dict[int, collections.Counter[str]] = collections.defaultdict(
    collections.Counter
  )
  for entry in entries:
    if name == 'choices':
      groups[len(entry['options'])][entry['answer']] += 1
    elif name == 'conversations':
      groups[len(entry['pattern'])][entry['pattern']] += 1
  for length, counts in groups.items():
    possible = length if name == 'choices' else min(2**length, 8)
    if len(counts) < possible or max(counts.values()) - min(counts.values()) > 1:
      raise ValueError(f'{name}.jsonl: of length {length}, there are {dict(counts)}')
