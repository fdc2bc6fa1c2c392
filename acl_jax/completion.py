# SPDX-License-Identifier: Apache-2.0
"""Completion of the names of audio files after @ on a terminal, by the Tab key."""

import glob
import os
import re
import sys

# What is typed after the last @: in quotes, or with spaces behind backslashes.
_OPEN = re.compile(r'(?:^|(?<=\s))@(?:"(?P<quoted>[^"]*)|(?P<bare>(?:\\ |[^\s"])*))$')
MAX_NAMES = 200  # that a terminal shows


def enable() -> None:
  """Complete names by Tab, if the input is a terminal and this Python has readline."""
  if not sys.stdin.isatty():
    return
  try:
    import readline
  except ImportError:  # Windows
    return
  readline.set_completer_delims('')  # names may have spaces
  readline.set_completer(
    lambda line, state: [*complete(line), None][min(state, len(complete(line)))]
  )
  is_libedit = 'libedit' in (readline.__doc__ or '')
  readline.parse_and_bind('bind ^I rl_complete' if is_libedit else 'tab: complete')


def complete(line: str) -> list[str]:
  """Return what a line may become: with the names of files and folders after its @."""
  if (match := _OPEN.search(line)) is None:
    return []
  typed = match['quoted']
  if typed is None:
    typed = match['bare'].replace('\\ ', ' ')
  paths = sorted(glob.glob(glob.escape(os.path.expanduser(typed)) + '*'))[:MAX_NAMES]
  start = line[: match.start()]
  return [start + _name(path) for path in paths]


def _name(path: str) -> str:
  """Return `@file`, open after a folder, so that the next Tab goes on in it."""
  if os.path.isdir(path):
    quote = '"' if ' ' in path else ''
    return f'@{quote}{path}/'
  return name_file(path)


def name_file(path: str) -> str:
  """Return `@file` as it is typed."""
  return f'@"{path}"' if re.search(r'\s', path) else f'@{path}'
