# SPDX-License-Identifier: Apache-2.0
"""How a program ends: exit code and last line, as a user at a terminal sees them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import app, flags

from acl_jax.runtime import config_flag, program

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict(dict(optim=dict(peak_lr=0.1))).lock()
"""


def raises(error):
  def main(argv):
    raise error

  return main


@pytest.mark.parametrize(
  'main, code, line',
  [
    (lambda argv: print('done'), 0, 'done'),
    (
      raises(ValueError('a.wav: 9 s,\n at most 8 s')),
      1,
      'error: a.wav: 9 s, at most 8 s',
    ),
    (raises(FloatingPointError('loss is nan')), 1, 'error: loss is nan'),
    (lambda argv: open('no.wav'), 1, 'error: no.wav: No such file or directory'),
    (raises(app.UsageError('--x is needed')), 1, 'error: --x is needed'),
    (raises(program.Preempted()), 42, 'preempted after saving: run me again'),
    (raises(KeyboardInterrupt()), 130, 'interrupted'),
    (raises(ValueError('x.wav: Gloo failed')), 1, 'error: x.wav: Gloo failed'),
    (
      raises(jax.errors.JaxRuntimeError('UNKNOWN: Gloo all-reduce failed: reset')),
      42,
      'a process of this job was lost (UNKNOWN: Gloo all-reduce failed: reset): run me'
      ' again',
    ),
  ],
)
def test_every_end_has_an_exit_code_and_one_line(run_program, main, code, line):
  result = run_program(main)
  assert result.code == code
  assert (result.stdout + result.stderr).strip() == line


@pytest.mark.parametrize(
  'argument, line',
  [
    ('--nonsense=1', "error: Unknown command line flag 'nonsense'"),
    ('stray', 'error: stray is not a flag: write --name=value, see --help'),
  ],
)
def test_unknown_arguments_are_rejected(run_program, argument, line):
  result = run_program(lambda argv: None, argument)
  assert (result.code, result.stdout, result.stderr.strip()) == (1, '', line)


@pytest.mark.parametrize(
  'argument, read, line',
  [
    ('--config.optim.peak_lr=1', lambda config: print('done'), 'done'),
    (
      '--config.optim.peak_lrr=1',
      None,
      'error: config.optim.peak_lrr is not a key; did you mean peak_lr?',
    ),
    (
      '--config.optim.peak_lr=1',
      lambda config: config.steps,
      "error: no such key: 'steps'",
    ),
  ],
)
def test_unknown_config_keys_are_user_errors(
  run_program, tmp_path, argument, read, line
):
  path = tmp_path / 'config.py'
  path.write_text(CONFIG)
  config_flag.define(argv=['', f'--config={path}', argument])
  main = lambda argv: read(flags.FLAGS.config)  # noqa: E731
  result = run_program(main, f'--config={path}', argument)
  assert result.code == int(line != 'done')
  assert (result.stdout + result.stderr).strip() == line


def test_a_missing_config_is_one_sentence(run_program):
  config_flag.define(argv=[''])
  flags.mark_flag_as_required('config')
  result = run_program(lambda argv: None)
  assert (result.code, result.stderr) == (1, 'error: --config is missing, see --help\n')


def test_a_bug_keeps_its_traceback(run_program):
  with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'x'"):
    run_program(lambda argv: None.x)


@pytest.mark.parametrize('variable', [False, True])
def test_debug_prints_the_traceback(run_program, monkeypatch, variable):
  if variable:
    monkeypatch.setenv('ACL_JAX_DEBUG', '1')
  flags = [] if variable else ['--debug']
  result = run_program(raises(ValueError('limit')), *flags)
  assert 'Traceback' in result.stderr
  assert result.stderr.endswith('\nerror: limit\n')


def run_process(error, *arguments):
  script = 'from acl_jax.runtime import program\n'
  script += f'def main(argv): raise {error}\nprogram.run(main)'
  done = subprocess.run(
    [sys.executable, '-c', script, *arguments],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


@pytest.mark.full
def test_a_real_process_prints_one_line_for_a_user_error():
  code, stdout, stderr = run_process(r'ValueError("a.wav: 9 s,\n at most 8 s")')
  assert (code, stdout, stderr) == (1, '', 'error: a.wav: 9 s, at most 8 s\n')


@pytest.mark.full
def test_a_real_process_prints_the_traceback_of_a_bug():
  code, stdout, stderr = run_process('AttributeError("no x")')
  assert (code, stdout) == (1, '') and 'Traceback' in stderr
  assert stderr.endswith('AttributeError: no x\n')


@pytest.mark.full
@pytest.mark.parametrize('argument', ['--help', '--helpfull'])
def test_help_is_no_error(argument):
  code, stdout, stderr = run_process('ValueError("ran")', argument)
  assert (code, stderr) == (0, '') and '--helpfull' in stdout
