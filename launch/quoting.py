# SPDX-License-Identifier: Apache-2.0
"""Arguments as bash and Kubernetes read them back, unchanged."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence


def quote(text: str) -> str:
  r"""One word of bash, printable ASCII on one line whatever it holds.

  So it may also stand in YAML and in the command of another shell. What is not
  printable is written as bytes: \u would depend on the reader's locale.
  """
  if '\0' in text:
    raise ValueError(f'{text!r}: an argument cannot hold the character NUL')
  if text.isascii() and text.isprintable():
    return shlex.quote(text)
  return "$'" + ''.join(map(_escape, os.fsencode(text))) + "'"


def _escape(byte: int) -> str:
  if byte in b"'\\" or not 32 <= byte < 127:
    return f'\\x{byte:02x}'
  return chr(byte)


def line(argv: Iterable[str]) -> str:
  """A command of bash."""
  return ' '.join(map(quote, argv))


def lines(argv: Iterable[str], indent: str = '') -> str:
  """The same, a flag a line."""
  first, *rest = map(quote, argv)
  text = first
  for word in rest:
    is_flag = word.lstrip("'").startswith('--')
    text += f' \\\n{indent}  {word}' if is_flag else f' {word}'
  return indent + text


def kubernetes(text: str) -> str:
  """What Kubernetes turns into `text` when it replaces $(VARIABLE) in a command."""
  return re.sub(r'\$(?=[$(])', '$$', text)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """What is before the first `--`, and what is after it."""
  end = argv.index('--') if '--' in argv else len(argv)
  return list(argv[:end]), list(argv[end + 1 :])
