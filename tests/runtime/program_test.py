# SPDX-License-Identifier: Apache-2.0
"""How a program ends: exit code and last line, as a user at a terminal sees them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
from absl import app, flags
from ml_collections import config_flags
from acl_jax.runtime import program

config = config_flags.DEFINE_config_file('config')
how = flags.DEFINE_string('how', 'None', 'an expression, or an exception to raise')


def main(argv):
  value = eval(how.value)
  if isinstance(value, BaseException):
    raise value
  print('done')


program.run(main)
"""
CONFIG = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict(dict(optim=dict(peak_lr=0.1))).lock()
"""


@pytest.mark.parametrize(
  'argument, code, last_line',
  [
    ('--config.optim.peak_lr=1', 0, 'done'),
    (
      '--how=ValueError("a.wav: 9 s,\\n at most 8 s")',
      1,
      'error: a.wav: 9 s, at most 8 s',
    ),
    ('--how=FloatingPointError("loss is nan")', 1, 'error: loss is nan'),
    ('--how=open("no.wav")', 1, 'error: no.wav: No such file or directory'),
    ('--how=app.UsageError("--x is needed")', 1, 'error: --x is needed'),
    ('--nonsense=1', 1, "error: Unknown command line flag 'nonsense'"),
    ('stray', 1, 'error: stray is not a flag: write --name=value, see --help'),
    (
      '--config.optim.peak_lrr=1',
      1,
      'error: no such key: \'peak_lrr\' Did you mean "peak_lr" instead of "peak_lrr"?',
    ),
    ('--how=config.value.steps', 1, "error: no such key: 'steps'"),
    ('--how=program.Preempted()', 42, 'preempted after saving: run me again'),
    ('--how=KeyboardInterrupt()', 130, 'interrupted'),
  ],
)
def test_what_a_user_can_mend_is_one_line(tmp_path, argument, code, last_line):
  done = _run(tmp_path, argument)
  assert done.returncode == code
  assert (done.stdout + done.stderr).strip() == last_line


def test_a_bug_keeps_its_traceback(tmp_path):
  done = _run(tmp_path, '--how=None.x')
  assert done.returncode == 1
  assert 'Traceback' in done.stderr
  assert done.stderr.strip().endswith("'NoneType' object has no attribute 'x'")


def test_debug_shows_where_an_error_comes_from(tmp_path):
  done = _run(tmp_path, '--how=ValueError("limit")', '--debug')
  assert 'Traceback' in done.stderr
  assert done.stderr.endswith('\nerror: limit\n')


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
  (folder / 'script.py').write_text(SCRIPT)
  (folder / 'config.py').write_text(CONFIG)
  return subprocess.run(
    [sys.executable, 'script.py', '--config=config.py', *arguments],
    cwd=folder,
    env={'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
