# SPDX-License-Identifier: Apache-2.0
"""Questions and requests of many kinds, written as people write to a chat model."""

import random

from data_pipeline.corpus_tools import entities
from data_pipeline.corpus_tools.entities import Split, share
from data_pipeline.corpus_tools.templates import CONSTRAINTS, TEMPLATES

# The first held-out question; WordNet's lines and the lists here are without it.
FIRST_QUESTION = 'What is the capital of France?'
_MONTHS = tuple(
  'January February March April May June July August September October November'
  ' December'.split()
)
_OPENINGS = ('Hey, ', 'Hi! ', 'Okay, ', 'Quick question: ', 'So, ', 'Hello. ', 'Um, ')
_ENDINGS = (' Thanks!', ' Please be quick.', ' Thank you.', ' Just curious.')
_PLAIN = 0.75  # share of lines without an opening or an ending


def make_requests(count: int, split: Split, seed: int = 0) -> list[str]:
  """Return `count` distinct lines, as many of each kind as of any other.

  Templates, names, words and topics of the two splits are disjoint. The first held-out
  line is the one that everybody tries first. ValueError if the templates do not yield
  so many.
  """
  rng = random.Random(f'{seed}/{split}')
  lines = {FIRST_QUESTION: None} if split == 'heldout' else {}
  kinds = list(TEMPLATES)
  for attempt in range(50 * count):
    if len(lines) >= count:
      return list(lines)
    turn, kind = divmod(attempt, len(kinds))
    templates = share(TEMPLATES[kinds[kind]], split)
    line = templates[turn % len(templates)].format(**_draw_values(split, rng))
    line = line.replace('.m..', '.m.')  # one full stop for "p.m." and the sentence
    if kinds[kind] != 'small_talk':
      line = _decorate(line, rng)
    lines[line] = None
  raise ValueError(f'the templates yield only {len(lines)} distinct lines, not {count}')


def _decorate(line: str, rng: random.Random) -> str:
  if rng.random() < _PLAIN or len(line.split()) < 4:
    return line
  if rng.random() < 0.3:
    return line + rng.choice(_ENDINGS)
  opening, first = rng.choice(_OPENINGS), line.split()[0]
  keeps_capital = opening[-2] in '!.' or first in ('I', "I'm", 'A,')
  return opening + (line if keeps_capital else line[0].lower() + line[1:])


def _draw_values(split: Split, rng: random.Random) -> dict[str, str]:
  """Draw a value for every field of a template; `city2` is another than `city`."""
  values: dict[str, str] = {}
  for field, (items, count) in _LISTS.items():
    for number, item in enumerate(rng.sample(share(items, split), count)):
      values[field + ('' if number == 0 else str(number + 1))] = item
  for field, draw in _NUMBERS.items():
    values[field], values[f'{field}2'] = (draw(split, rng) for _ in range(2))
  group = list(entities.GROUPS[int(rng.choice(share(_GROUP_NUMBERS, split)))])
  values |= zip('abc', rng.sample(group, 3), strict=True)
  values['How'] = values['how'][0].upper() + values['how'][1:]
  values['spelt'], values['spelt_surname'] = (
    '-'.join(filter(str.isalpha, values[field].upper()))
    for field in ('word', 'surname')
  )
  letters = values['spelt'].split('-')
  swap = rng.randrange(1, len(letters) - 1)
  letters[swap], letters[swap + 1] = letters[swap + 1], letters[swap]
  values['spelt2'] = '-'.join(letters)
  return values


def _integer(split: Split, rng: random.Random, low: int, high: int) -> int:
  """Draw an integer; those that are 4 modulo 5 are held out."""
  while True:
    number = rng.randint(low, high)
    if (number % 5 == 4) == (split == 'heldout'):
      return number


def _number(split: Split, rng: random.Random) -> str:
  return f'{_integer(split, rng, 11, rng.choice((99, 999, 9_999))):,}'


def _small(split: Split, rng: random.Random) -> str:
  return str(_integer(split, rng, 2, rng.choice((12, 30))))


def _decimal(split: Split, rng: random.Random) -> str:
  return f'{_integer(split, rng, 0, 40)}.{rng.randint(1, 9)}'


def _year(split: Split, rng: random.Random) -> str:
  return str(_integer(split, rng, rng.choice((1400, 1900)), 2024))


def _time(split: Split, rng: random.Random) -> str:
  minute = rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50, _integer(split, rng, 1, 59)))
  time = f'{rng.randint(1, 12)}:{minute:02d}'
  return time + rng.choice(('', '', '', ' a.m.', ' p.m.', ' pm'))


def _date(split: Split, rng: random.Random) -> str:
  month, day = rng.choice(_MONTHS), _integer(split, rng, 1, 28)
  ending = {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10 if day // 10 != 1 else 0, 'th')
  return rng.choice(
    (f'{month} {day}', f'{month} {day}{ending}', f'the {day}{ending} of {month}')
  )


def _money(split: Split, rng: random.Random) -> str:
  sign = rng.choice('$$$$£€')
  amount = _integer(split, rng, 1, rng.choice((20, 150, 5_000)))
  cents = rng.choice(('', '', '', '.50', '.99', '.25'))
  if rng.random() < 0.06:
    return f'{sign}{_integer(split, rng, 1, 9)}.{rng.randint(1, 9)} million'
  return f'{sign}{amount:,}{cents}'


def _distance(split: Split, rng: random.Random) -> str:
  unit = rng.choice(('kilometers', 'kilometres', 'km', 'meters', 'yards'))
  return f'{_decimal(split, rng) if rng.random() < 0.5 else _number(split, rng)} {unit}'


def _weight(split: Split, rng: random.Random) -> str:
  if rng.random() < 0.5:
    return f'{_integer(split, rng, 20, 900)} {rng.choice(("grams", "g"))}'
  return f'{_decimal(split, rng)} {rng.choice(("kg", "kilos", "pounds"))}'


def _phone(split: Split, rng: random.Random) -> str:
  return f'555-{_integer(split, rng, 100, 9_999):04d}'


def _fraction(split: Split, rng: random.Random) -> str:
  return rng.choice(('1/2', '1/3', '3/4') if split == 'train' else ('2/3', '1/4'))


# Fields of the templates: lists with the number of different items, and numbers.
_LISTS = {
  'country': (entities.COUNTRIES, 2),
  'city': (entities.CITIES, 3),
  'sight': (entities.SIGHTS, 1),
  'person': (entities.PEOPLE, 2),
  'first': (entities.FIRST_NAMES, 3),
  'surname': (entities.SURNAMES, 1),
  'word': (entities.SPELLING_WORDS, 1),
  'topic': (entities.TOPICS, 2),
  'how': (CONSTRAINTS, 1),
  'month': (_MONTHS, 1),
}
_NUMBERS = {
  'number': _number,
  'small': _small,
  'decimal': _decimal,
  'year': _year,
  'time': _time,
  'date': _date,
  'money': _money,
  'distance': _distance,
  'weight': _weight,
  'phone': _phone,
  'fraction': _fraction,
}
_GROUP_NUMBERS = tuple(map(str, range(len(entities.GROUPS))))
