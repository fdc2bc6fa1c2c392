# SPDX-License-Identifier: Apache-2.0
"""How every program ends: done 0, an error in one sentence 1, preempted 42."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

PREEMPTED = 42
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

_DEBUG = flags.DEFINE_bool('debug', False, 'show where an error comes from')


class Preempted(Exception):
  """The machine is wanted back, and everything done so far has been saved."""


def run(main: Callable[[Sequence[str]], Any], *positional: str) -> NoReturn:
  """Parses the flags, runs `main(argv)` and exits; replaces `absl.app.run`.

  `positional` names the arguments that are no flags, none of them optional. What a
  user can mend (a flag, a config key, ValueError, OSError) ends in one sentence on
  stderr, with the traceback only under --debug or ACL_JAX_DEBUG=1. The rest is our
  fault and keeps its traceback.
  """

  def checked(argv: Sequence[str]) -> Any:
    if stray := argv[1 + len(positional) :]:
      raise ValueError(f'{stray[0]} is not a flag: write --name=value, see --help')
    if missing := positional[len(argv) - 1 :]:
      raise ValueError(f'{" ".join(missing)} is missing, see --help')
    if not flags.FLAGS['verbosity'].present:  # JAX and Orbax tell of every step
      logging.set_verbosity(logging.WARNING)
    try:
      return main(argv)
    except app.UsageError as error:  # absl would print the whole help
      raise ValueError(str(error)) from error

  try:
    app.run(checked, flags_parser=lambda argv: flags.FLAGS(list(argv)))
  except Preempted:
    _exit('preempted after saving: run me again', PREEMPTED)
  except KeyboardInterrupt:
    _exit('interrupted', _INTERRUPTED)
  except Exception as error:
    if not _is_user_error(error):
      raise
    if os.environ.get('ACL_JAX_DEBUG') or _debug():
      traceback.print_exc()
    _exit(f'error: {error_message(error)}', 1)
  sys.exit(0)


def error_message(error: BaseException) -> str:
  """What an exception says, on one line."""
  if isinstance(error, OSError) and error.strerror and error.filename is not None:
    return f'{os.fsdecode(error.filename)}: {error.strerror}'
  while error.args and isinstance(error.args[0], BaseException):  # ml_collections wraps
    error = error.args[0]
  if isinstance(error, KeyError):  # its str() is a repr, line breaks and all
    return f'no such key: {" ".join(str(error.args[0]).split())}'
  return ' '.join(str(error).split()) or type(error).__name__


def _is_user_error(error: Exception) -> bool:
  if isinstance(error, (flags.Error, ValueError, OSError, FloatingPointError)):
    return True
  # An unknown key of a config; any other AttributeError is a bug.
  frames = list(traceback.walk_tb(error.__traceback__))
  module = frames[-1][0].f_globals.get('__name__', '')
  return isinstance(error, (AttributeError, KeyError)) and 'ml_collections' in module


def _debug() -> bool:
  return _DEBUG.value if flags.FLAGS.is_parsed() else '--debug' in sys.argv


def _exit(line: str, code: int) -> NoReturn:
  print(line, file=sys.stderr, flush=True)
  sys.exit(code)
