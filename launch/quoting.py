# SPDX-License-Identifier: Apache-2.0
"""Quote arguments so that bash and Kubernetes pass them on unchanged."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence


def quote(text: str) -> str:
  r"""Quote `text` as one word of bash, in printable ASCII on one line.

  It may therefore stand in YAML and in the command of another shell. Unprintable
  characters are escaped as bytes, as \u would depend on the reader's locale.
  """
  if '\0' in text:
    raise ValueError(f'{text!r}: an argument cannot contain NUL')
  if text.isascii() and text.isprintable():
    return shlex.quote(text)
  return "$'" + ''.join(map(_escape_byte, os.fsencode(text))) + "'"


def _escape_byte(byte: int) -> str:
  if byte in b"'\\" or not 32 <= byte < 127:
    return f'\\x{byte:02x}'
  return chr(byte)


def command_line(argv: Iterable[str]) -> str:
  """Return a bash command."""
  return ' '.join(map(quote, argv))


def command_lines(argv: Iterable[str], indent: str = '') -> str:
  """Return a bash command with every flag on a line of its own."""
  first, *rest = map(quote, argv)
  text = first
  for word in rest:
    is_flag = word.lstrip("'").startswith('--')
    text += f' \\\n{indent}  {word}' if is_flag else f' {word}'
  return indent + text


def escape_kubernetes(text: str) -> str:
  """Escape $(VARIABLE), which Kubernetes would replace in a command."""
  return re.sub(r'\$(?=[$(])', '$$', text)


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Return the arguments before the first `--`, and those after it."""
  end = argv.index('--') if '--' in argv else len(argv)
  return list(argv[:end]), list(argv[end + 1 :])
