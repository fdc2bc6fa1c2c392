# SPDX-License-Identifier: Apache-2.0
"""HTML in which text is escaped unless it is `Markup`: strangers write only text."""

import difflib
import html

VOID = {'img', 'meta'}  # elements without an end


class Markup(str):
  """Text that is HTML already."""


def join(*children: str) -> Markup:
  """Children in order, escaped where they are not markup."""
  return Markup(
    ''.join(c if isinstance(c, Markup) else html.escape(c) for c in children)
  )


def tag(element: str, *children: str, **attributes: str | int | float) -> Markup:
  """An element; an attribute `class_` is written class, `stroke_width` stroke-width.

  Those that are True stand without a value, those that are False are left out.
  """
  written = ''
  for key, value in attributes.items():
    name = key.removesuffix('_').replace('_', '-')
    if value is True:
      written += f' {name}'
    elif value is not False:
      written += f' {name}="{html.escape(str(value))}"'
  end = '' if element in VOID else f'{join(*children)}</{element}>'
  return Markup(f'<{element}{written}>{end}')


def mark_differences(said: str, heard: str) -> Markup:
  """What was heard, the words in it that were not said marked."""
  words = heard.split()
  matcher = difflib.SequenceMatcher(None, _plain(said), _plain(heard), autojunk=False)
  parts = [
    join(' '.join(words[start:end]))
    if kind == 'equal'
    else tag('mark', ' '.join(words[start:end]))
    for kind, _, _, start, end in matcher.get_opcodes()
    if start < end
  ]
  return Markup(' '.join(parts))


def _plain(text: str) -> list[str]:
  return [''.join(filter(str.isalnum, word.lower())) for word in text.split()]
