# SPDX-License-Identifier: Apache-2.0
import logging
import sys
from typing import NamedTuple

import pytest
from absl import logging as absl_logging
from absl.testing import flagsaver

from acl_jax.runtime import program, sigterm


class Result(NamedTuple):
  """Exit code and output of a program."""

  code: int
  stdout: str
  stderr: str


@pytest.fixture
def run_program(monkeypatch, capsys):
  """A function that calls `program.run(main)` here and returns the result."""
  handlers, verbosity = logging.root.handlers[:], absl_logging.get_verbosity()

  def run(main, *arguments):
    monkeypatch.setattr(sys, 'argv', ['script.py', *arguments])
    monkeypatch.setattr(sigterm, 'install', lambda: None)
    monkeypatch.setattr(sigterm, 'end_process', lambda **_: sys.exit(42))
    with pytest.raises(SystemExit) as error:
      program.run(main)
    return Result(error.value.code or 0, *capsys.readouterr())

  with flagsaver.flagsaver():
    yield run
  logging.root.handlers[:] = handlers
  absl_logging.set_verbosity(verbosity)
