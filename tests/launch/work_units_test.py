# SPDX-License-Identifier: Apache-2.0
"""Sweeps, and the work units that follow from them."""

import re

import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.work_units import OUTPUT_FLAGS, parse_sweep, work_units

CONFIG = """
from ml_collections import ConfigDict

def get_config():
  c = ConfigDict(dict(seed=0, optim=dict(peak_lr=0.1, betas=(0.9, 0.99))))
  c.data = dict(train='/gcs/corpora/mls', targets='x/gcs/none')
  return c.lock()
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> str:
  path = tmp_path_factory.mktemp('config') / 'config.py'
  path.write_text(CONFIG)
  return str(path)


def test_without_a_sweep_there_is_one_unit(config):
  [unit] = work_units('train', config, 'runs/My_Run.v2', [], ['--config.seed=3'])
  assert unit.argv == (
    '-m',
    'acl_jax.train',
    f'--config={config}',
    '--workdir=runs/My_Run.v2',
    '--config.seed=3',
  )
  assert (unit.name, unit.workdir) == ('my-run-v2', 'runs/My_Run.v2')


@pytest.mark.parametrize('program, flag', OUTPUT_FLAGS.items())
def test_each_program_gets_its_output_folder(config, program, flag):
  [unit] = work_units(program, config, 'runs/a')
  assert unit.argv[1] == f'acl_jax.{program}' and f'--{flag}=runs/a' in unit.argv


def test_sweeps_form_their_product_in_separate_folders(config):
  sweeps = ['config.optim.peak_lr=1e-4,3e-4', 'seed=1,2,3']
  units = work_units('train', config, 'runs/7b/', sweeps, ['--config.seed=9'])
  assert len(units) == 6
  assert [u.name for u in units] == [f'run-7b-{n}' for n in range(1, 7)]
  assert units[4].workdir == 'runs/7b/optim.peak_lr=3e-4,seed=2'
  # Swept values come last, so that they take precedence.
  assert units[4].argv[-2:] == ('--config.optim.peak_lr=3e-4', '--config.seed=2')
  assert len({u.workdir for u in units}) == 6


def test_a_longer_sweep_keeps_the_folders_of_a_shorter_one(config):
  short = work_units('train', config, 'runs/a', ['seed=1,2'])
  long = work_units('train', config, 'runs/a', ['seed=0,2,1'])
  assert {u.workdir for u in short} < {u.workdir for u in long}


def test_a_tuple_is_one_value(config):
  key, values = parse_sweep('optim.betas=(0.9,0.95),(0.9,0.99)')
  assert (key, values) == ('optim.betas', ['(0.9,0.95)', '(0.9,0.99)'])
  units = work_units('train', config, 'runs/a', ['optim.betas=(0.9,0.95),(0.8,0.9)'])
  assert units[0].workdir == 'runs/a/optim.betas=_0.9,0.95_'
  assert units[0].argv[-1] == '--config.optim.betas=(0.9,0.95)'


@given(st.lists(st.from_regex(r'[a-z0-9./*\[\]-]{1,9}', fullmatch=True), min_size=1))
def test_values_without_commas_are_kept_as_written(values):
  if any(v.count('[') or v.count(']') for v in values):
    return
  assert parse_sweep(f'data.train={",".join(values)}') == ('data.train', values)


@given(st.text('aZ0_- ./é', min_size=1, max_size=60))
@settings(max_examples=50)
def test_any_folder_gives_a_dns_label(config, folder):
  try:
    units = work_units('train', config, folder, ['seed=1,2'])
  except ValueError as error:
    assert str(error).startswith('--workdir=')
    return
  for unit in units:
    assert re.fullmatch(r'[a-z]([a-z0-9-]*[a-z0-9])?', unit.name)
    assert len(unit.name) <= 28


def test_buckets_come_from_paths_that_begin_with_gcs(config):
  arguments = ['--config.data.targets=/gcs/targets.b/x', '--config.seed=1']
  [unit] = work_units('train', config, '/gcs/speech/runs/a', [], arguments)
  assert unit.buckets == ('corpora', 'speech', 'targets.b')


@pytest.mark.parametrize(
  'sweeps, arguments, pattern',
  [
    (['peak_lr'], [], r'^--sweep=peak_lr: .*ctc\.peak_lr='),
    (['a b=1'], [], r'^--sweep=a b=1: .*ctc\.peak_lr='),
    (['seed=1,,2'], [], '^--sweep=seed=1,,2: value 2 is empty'),
    (['seed=1', 'config.seed=2'], [], '^--sweep: seed .*twice'),
    (['seed=1,1'], [], '^--sweep: .*folder runs/a/seed=1'),
    (['seed=' + ','.join(map(str, range(1001)))], [], '^--sweep: 1001 .*1000'),
    (['data.train=' + 'x' * 300], [], '^--sweep: .* 311 characters.* 200'),
    ([], ['--x=a\0'], r"^'--x=a\\x00': .*NUL"),
    ([], ['--x=\udcff'], r"^'--x=\\udcff': .*NUL"),
    ([], [''], "^'': .*NUL"),
  ],
)
def test_invalid_sweeps_and_arguments_are_refused(config, sweeps, arguments, pattern):
  with pytest.raises(ValueError, match=pattern):
    work_units('train', config, 'runs/a', sweeps, arguments)


def test_the_config_is_checked_before_any_launch(config):
  with pytest.raises(flags.Error, match='peak_lrr is not a key; did you mean peak_lr'):
    work_units('train', config, 'runs/a', ['optim.peak_lrr=1'])
  with pytest.raises(flags.Error, match="peak_lr = 'fast' is not a number"):
    work_units('train', config, 'runs/a', [], ['--config.optim.peak_lr=fast'])
  with pytest.raises(flags.Error, match='nowhere.py: no such config'):
    work_units('train', 'nowhere.py', 'runs/a')
