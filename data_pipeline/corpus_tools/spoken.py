# SPDX-License-Identifier: Apache-2.0
"""Written numbers, money, times and titles as they are spoken.

The engines read most numbers themselves, but espeak-ng says "dollar forty" for $40 and
"ten zero zero" for 10:00. The transcript of a line stays as it was written.
"""

import re
from collections.abc import Callable

_MONEY = {
  '$': ('dollar', 'dollars', 'cent', 'cents'),
  '£': ('pound', 'pounds', 'penny', 'pence'),
  '€': ('euro', 'euros', 'cent', 'cents'),
}
_UNITS = {'km': 'kilometers', 'cm': 'centimeters', 'kg': 'kilograms', 'g': 'grams'}
_UNITS |= {'ml': 'milliliters', 'mph': 'miles per hour', '°C': 'degrees Celsius'}
_UNITS |= {'°F': 'degrees Fahrenheit', '%': 'percent'}
_TITLES = {'Dr': 'Doctor', 'Mr': 'Mister', 'Mrs': 'Missis', 'Ms': 'Miz', 'St': 'Saint'}
_FRACTIONS = {'1/2': 'one half', '1/4': 'one quarter', '3/4': 'three quarters'}
_FRACTIONS |= {'1/3': 'one third', '2/3': 'two thirds'}


def spell_out(text: str) -> str:
  """Return a line as it is spoken, with the numbers that need it as words."""
  for pattern, replacement in _RULES:
    text = pattern.sub(replacement, text)
  return text


def _large_money(match: re.Match[str]) -> str:
  return f'{match[2]} {match[3]} {_MONEY[match[1]][1]}'


def _money(match: re.Match[str]) -> str:
  one, many, small_one, small_many = _MONEY[match[1]]
  amount = f'{match[2]} {one if match[2] == "1" else many}'
  if match[3] in (None, '00'):
    return amount
  cents = int(match[3])
  small = f'{cents} {small_one if cents == 1 else small_many}'
  return small if match[2] == '0' else f'{amount} and {small}'


def _time(match: re.Match[str]) -> str:
  hour, minute, half = match[1], match[2], match[3]
  if minute == '00':
    return hour if half else f"{hour} o'clock"
  return f'{hour} oh {minute[1]}' if minute[0] == '0' else f'{hour} {minute}'


def _fraction(match: re.Match[str]) -> str:
  return _FRACTIONS.get(match[0], match[0])


def _half_day(match: re.Match[str]) -> str:
  # The last period of "p.m." also ends the sentence if no more words follow.
  stop = '.' if match[2] and not match[3] else ''
  return f' {match[1].upper()}M{stop}'


def _year(match: re.Match[str]) -> str:
  century, rest = match[1], match[2]
  if rest == '00':
    return f'{century} hundred'
  return f'{century} oh {rest[1]}' if rest[0] == '0' else f'{century} {rest}'


_Replacement = str | Callable[[re.Match[str]], str]
_RULES: tuple[tuple[re.Pattern[str], _Replacement], ...] = tuple(
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    ('[‘’]', "'"),
    ('[“”]', '"'),
    (r'([$£€])(\d[\d,]*(?:\.\d+)?) ([mb]illion)\b', _large_money),
    (r'([$£€])(\d+(?:,\d{3})*)(?:\.(\d\d))?(?![\d.]?\d)', _money),
    (r'\b(\d{1,2}):([0-5]\d)\b(?=( ?[ap]\.?m\b)?)', _time),
    # Four digits after such a word are a year, unless something is counted.
    (
      r'(?<=\b(?:in|by|of) )(1[1-9]|20(?!0))(\d\d)(?=[^\w ]|$| (?:and|or|to)\b)',
      _year,
    ),
    (r'(?<=\d, )(1[1-9]|20(?!0))(\d\d)\b', _year),  # March 3, 1998
    (r'(?<![\d/])[1-3]/[2-4](?![\d/])', _fraction),
    (r'\b\d{3}-\d{4}\b', lambda m: ' '.join(m[0]).replace(' -', ',')),
    (r'(?<=\d) ?(km|cm|kg|g|ml|mph|°C|°F|%)(?!\w)', lambda m: f' {_UNITS[m[1]]}'),
    (r'\b(Dr|Mr|Mrs|Ms|St)\. (?=[A-Z])', lambda m: f'{_TITLES[m[1]]} '),
    (r'(?<=\d) ?([ap])(?:m|\.m(\.))(?!\w)(?=( [a-z]|[,?!])?)', _half_day),
    (r'\b[A-Z](?:-[A-Z])+\b', lambda m: m[0].replace('-', ', ')),  # C-A-T
  )
)
