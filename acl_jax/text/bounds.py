# SPDX-License-Identifier: Apache-2.0
"""Bounds on what a chat template may compute, and the filters of Jinja within them.

Every value that a template makes is small, so every operation is short, and their
number is limited. Only the filters listed here exist: their results are no larger than
their arguments, or are checked before they are made.
"""

import contextvars
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import jinja2
from jinja2 import filters, utils

MAX_CHARACTERS = 1 << 22  # of any value that a template makes
MAX_ELEMENTS = 100_000  # of a list or mapping, those within it included
MAX_OUTPUT = 1 << 24  # characters that all expressions write together
MAX_STEPS = 100_000  # iterations, calls and filters of one rendering
MAX_SECONDS = 10.0
MAX_NUMBER = 10_000  # an argument of a filter
MAX_BITS = 256  # of an integer
MAX_INDENT = 16  # spaces

# fmt: off
FILTERS = (
  'abs', 'attr', 'capitalize', 'count', 'd', 'default', 'dictsort', 'e', 'escape',
  'first', 'float', 'groupby', 'int', 'items', 'last', 'length', 'list', 'lower', 'map',
  'max', 'min', 'reject', 'rejectattr', 'reverse', 'round', 'safe', 'select',
  'selectattr', 'sort', 'string', 'sum', 'title', 'trim', 'truncate', 'unique', 'upper',
  'wordcount',
)
# fmt: on


class Budget:
  """What one rendering has used."""

  def __init__(self):
    self.steps = self.characters = 0
    self.end = time.monotonic() + MAX_SECONDS

  def charge(self, characters: int = 0) -> None:
    """Count a step; jinja2.TemplateError beyond a limit."""
    self.steps += 1
    self.characters += characters
    if self.steps > MAX_STEPS or time.monotonic() > self.end:
      raise jinja2.TemplateError(
        f'it takes more than {MAX_STEPS} steps or {MAX_SECONDS:g} s'
      )
    if self.characters > MAX_OUTPUT:
      raise jinja2.TemplateError(f'it writes more than {MAX_OUTPUT} characters')


budget: contextvars.ContextVar[Budget | None] = contextvars.ContextVar(
  'budget', default=None
)


def charge(characters: int = 0) -> None:
  """Count a step of the rendering, if there is one: constants are folded before."""
  if (current := budget.get()) is not None:
    current.charge(characters)


def bounded(value: Any) -> Any:
  """Return a value; jinja2.TemplateError if it is too large."""
  elements = characters = 0
  stack = [value]
  while stack:
    each = stack.pop()
    elements += 1
    if isinstance(each, str):
      characters += len(each)
    elif isinstance(each, dict):
      stack += itertools.chain(each.keys(), each.values())
    elif isinstance(each, (list, tuple, set)):
      stack += each
    elif isinstance(each, int) and each.bit_length() > MAX_BITS:
      raise jinja2.TemplateError(f'it makes a number of {each.bit_length()} bits')
    elif isinstance(each, utils.Namespace) and elements > 1:
      raise jinja2.TemplateError('it puts a namespace into a list')
    if elements + len(stack) > MAX_ELEMENTS:
      raise jinja2.TemplateError(f'it makes a list of over {MAX_ELEMENTS} elements')
    if characters > MAX_CHARACTERS:
      raise jinja2.TemplateError(f'it makes a text of over {MAX_CHARACTERS} characters')
  return value


def join(items: Iterable[Any], separator: str = '') -> str:
  """Join the texts of items; stops before the result is too long."""
  texts, characters = [], 0
  for item in items:
    texts.append(str(item))
    characters += len(texts[-1]) + len(separator)
    if characters > MAX_CHARACTERS:
      raise jinja2.TemplateError(f'it makes a text of over {MAX_CHARACTERS} characters')
  return separator.join(texts)


def replace(text: Any, old: str, new: str, count: int | None = None) -> str:
  """Replace strings in a text; checks the length of the result first."""
  text = str(text)
  if text.count(old) * len(new) > MAX_CHARACTERS:
    raise jinja2.TemplateError(f'it makes a text of over {MAX_CHARACTERS} characters')
  return text.replace(old, new, -1 if count is None else count)


@jinja2.pass_environment
def _join_filter(
  environment: jinja2.Environment, value: Any, d: str = '', attribute: Any = None
) -> str:
  if attribute is not None:
    value = map(filters.make_attrgetter(environment, attribute), value)
  return join(value, str(d))


def _tojson(
  value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False
) -> str:
  """Transformers' filter: unlike Jinja's, it does not escape HTML."""
  if isinstance(indent, str) or (indent or 0) > MAX_INDENT:
    raise jinja2.TemplateError(
      f'tojson has indent = {indent!r}; the limit is {MAX_INDENT}'
    )
  return json.dumps(
    bounded(value),
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )


def _indent(
  value: Any, width: Any = 4, first: bool = False, blank: bool = False
) -> str:
  width = len(width) if isinstance(width, str) else width
  if width > MAX_INDENT or str(value).count('\n') * width > MAX_CHARACTERS:
    raise jinja2.TemplateError(f'indent has width = {width}; the limit is {MAX_INDENT}')
  return filters.do_indent(str(value), width, first, blank)


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
  """Wrap a filter: count it, and check its numbers and its result."""

  @functools.wraps(function)  # copies what Jinja passes to it
  def guarded(*args: Any, **kwargs: Any) -> Any:
    charge()
    for number in (*args[1:], *kwargs.values()):
      if isinstance(number, int) and abs(number) > MAX_NUMBER:
        raise jinja2.TemplateError(f'an argument of a filter is over {MAX_NUMBER}')
    return bounded(function(*args, **kwargs))

  return guarded


def make_filters() -> dict[str, Callable[..., Any]]:
  """Return the filters by name."""
  theirs = {name: filters.FILTERS[name] for name in FILTERS}
  ours = {
    'indent': _indent,
    'join': _join_filter,
    'replace': replace,
    'tojson': _tojson,
  }
  return {name: guarded(function) for name, function in (theirs | ours).items()}
