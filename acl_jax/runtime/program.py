# SPDX-License-Identifier: Apache-2.0
"""Exit codes of every program: 0 for success, 1 for an error, 42 when preempted."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from acl_jax.runtime import accelerators, peers, sigterm
from acl_jax.runtime.sigterm import PREEMPTED, Preempted

__all__ = ['PREEMPTED', 'Preempted', 'error_message', 'run']

_REASON_CHARACTERS = 200
_INTERRUPTED = 130  # 128 + SIGINT, as in shells
_MISSING = re.compile(
  r'flag --(\w+)=None: Flag --\1 must have a value other than None.'
)

_DEBUG = flags.DEFINE_bool('debug', False, 'print the traceback of every error')


def run(main: Callable[[Sequence[str]], Any], *positional: str) -> NoReturn:
  """Parse the flags, run `main(argv)` and exit; replaces `absl.app.run`.

  `positional` names the arguments that are not flags; all of them are required. Errors
  that users can fix (flags, config keys, ValueError, OSError) print one line to stderr,
  with a traceback only under --debug or ACL_JAX_DEBUG=1. All others are bugs and keep
  their traceback. SIGTERM ends the program with `PREEMPTED`: see `runtime.sigterm`. So
  does the loss of another process of the job, whose last checkpoint remains.
  """

  def checked_main(argv: Sequence[str]) -> Any:
    if unexpected := argv[1 + len(positional) :]:
      raise ValueError(f'{unexpected[0]} is not a flag: write --name=value, see --help')
    if missing := positional[len(argv) - 1 :]:
      raise ValueError(f'{" ".join(missing)} is missing, see --help')
    if not flags.FLAGS['verbosity'].present:  # JAX and Orbax log every step
      logging.set_verbosity(logging.WARNING)
    accelerators.choose_platforms()
    try:
      return main(argv)
    except app.UsageError as error:  # absl would print all of --help
      raise ValueError(str(error)) from error

  sigterm.install()
  try:
    app.run(checked_main, flags_parser=_parse_flags)
  except Preempted:
    print('preempted after saving: run me again', file=sys.stderr, flush=True)
    sigterm.end_process()
  except KeyboardInterrupt:
    _exit('interrupted', _INTERRUPTED)
  except Exception as error:
    if peers.is_lost(error):
      reason = error_message(error)[:_REASON_CHARACTERS]
      message = f'a process of this job was lost ({reason}): run me again'
      print(message, file=sys.stderr, flush=True)
      sigterm.end_process(leave_job=False)
    if not _is_user_error(error):
      raise
    if os.environ.get('ACL_JAX_DEBUG') or _is_debug():
      traceback.print_exc()
    _exit(f'error: {error_message(error)}', 1)
  sys.exit(0)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(list(argv))
  except SystemExit:  # --help and the like, for which absl exits with 1
    sys.exit(0)
  except flags.IllegalFlagValueError as error:
    if match := _MISSING.fullmatch(str(error)):
      raise ValueError(f'--{match[1]} is missing, see --help') from None
    raise


def error_message(error: BaseException) -> str:
  """Return the message of an exception on one line."""
  if isinstance(error, OSError) and error.strerror and error.filename is not None:
    return f'{os.fsdecode(error.filename)}: {error.strerror}'
  while error.args and isinstance(error.args[0], BaseException):  # ml_collections wraps
    error = error.args[0]
  if isinstance(error, KeyError):  # str() would escape line breaks
    return f'no such key: {" ".join(str(error.args[0]).split())}'
  return ' '.join(str(error).split()) or type(error).__name__


def _is_user_error(error: Exception) -> bool:
  if isinstance(error, (flags.Error, ValueError, OSError, FloatingPointError)):
    return True
  # An unknown config key; any other AttributeError is a bug.
  frames = list(traceback.walk_tb(error.__traceback__))
  module = frames[-1][0].f_globals.get('__name__', '')
  return isinstance(error, (AttributeError, KeyError)) and 'ml_collections' in module


def _is_debug() -> bool:
  return _DEBUG.value if flags.FLAGS.is_parsed() else '--debug' in sys.argv


def _exit(message: str, code: int) -> NoReturn:
  print(message, file=sys.stderr, flush=True)
  sys.exit(code)
