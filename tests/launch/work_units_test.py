# SPDX-License-Identifier: Apache-2.0
"""Sweeps, and the arguments of each program that follow from them."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.work_units import PROGRAMS, parse_sweep, work_units

CONFIG = """
from ml_collections import ConfigDict

def get_config():
  c = ConfigDict(dict(seed=0, optim=dict(peak_lr=0.1, betas=(0.9, 0.99))))
  c.data = dict(train='/gcs/corpora/mls', targets='x/gcs/none')
  return c.lock()
"""


# Of ml_collections, when it reads a config file.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module')


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> str:
  path = tmp_path_factory.mktemp('config') / 'config.py'
  path.write_text(CONFIG)
  return str(path)


def test_one_unit_runs_the_program_as_it_is(config):
  [unit] = work_units('train', config, 'runs/My_Run.v2', [], ['--config.seed=3'])
  assert unit.argv == (
    *('-m', 'acl_jax.train', f'--config={config}', '--workdir=runs/My_Run.v2'),
    '--config.seed=3',
  )
  assert (unit.name, unit.workdir) == ('my-run-v2', 'runs/My_Run.v2')


@pytest.mark.parametrize('program, flag', PROGRAMS.items())
def test_each_program_is_told_its_folder(config, program, flag):
  [unit] = work_units(program, config, 'runs/a')
  assert unit.argv[1] == f'acl_jax.{program}' and f'--{flag}=runs/a' in unit.argv


def test_sweeps_make_their_product_each_in_its_folder(config):
  sweeps = ['config.optim.peak_lr=1e-4,3e-4', 'seed=1,2,3']
  units = work_units('train', config, 'runs/7b/', sweeps, ['--config.seed=9'])
  assert len(units) == 6
  assert [u.name for u in units] == [f'run-7b-{n}' for n in range(1, 7)]
  assert units[4].workdir == 'runs/7b/optim.peak_lr=3e-4,seed=2'
  # What is swept comes last, so that it prevails.
  assert units[4].argv[-2:] == ('--config.optim.peak_lr=3e-4', '--config.seed=2')
  assert len({u.workdir for u in units}) == 6


def test_a_longer_sweep_keeps_the_folders_of_the_shorter_one(config):
  short = work_units('train', config, 'runs/a', ['seed=1,2'])
  long = work_units('train', config, 'runs/a', ['seed=0,2,1'])
  assert {u.workdir for u in short} < {u.workdir for u in long}


def test_tuples_are_one_value(config):
  key, values = parse_sweep('optim.betas=(0.9,0.95),(0.9,0.99)')
  assert (key, values) == ('optim.betas', ['(0.9,0.95)', '(0.9,0.99)'])
  units = work_units('train', config, 'runs/a', ['optim.betas=(0.9,0.95),(0.8,0.9)'])
  assert units[0].workdir == 'runs/a/optim.betas=_0.9,0.95_'
  assert units[0].argv[-1] == '--config.optim.betas=(0.9,0.95)'


@given(st.lists(st.from_regex(r'[a-z0-9./*\[\]-]{1,9}', fullmatch=True), min_size=1))
def test_values_without_commas_are_read_as_written(values):
  if any(v.count('[') or v.count(']') for v in values):
    return
  assert parse_sweep(f'data.train={",".join(values)}') == ('data.train', values)


@given(st.text('aZ0_- ./é', min_size=1, max_size=60))
@settings(max_examples=50)
def test_any_folder_gives_a_dns_label(config, folder):
  try:
    units = work_units('train', config, folder, ['seed=1,2'])
  except ValueError as error:
    assert 'must name the job' in str(error)
    return
  for unit in units:
    assert re.fullmatch(r'[a-z]([a-z0-9-]*[a-z0-9])?', unit.name)
    assert len(unit.name) <= 28


def test_buckets_are_those_that_paths_begin_with(config):
  [unit] = work_units(
    *('train', config, '/gcs/speech/runs/a', []),
    ['--config.data.targets=/gcs/targets.b/x', '--config.seed=1'],
  )
  assert unit.buckets == ('corpora', 'speech', 'targets.b')


@pytest.mark.parametrize(
  'sweeps, arguments, says',
  [
    (['peak_lr'], [], '--sweep=peak_lr: a sweep is written like optim.peak_lr='),
    (['a b=1'], [], '--sweep=a b=1: a sweep is written like'),
    (['seed=1,,2'], [], '--sweep=seed=1,,2: value 2 is empty'),
    (['seed=1', 'config.seed=2'], [], '--sweep: seed is given twice'),
    (['seed=1,1'], [], '--sweep: two choices would share the folder runs/a/seed=1'),
    (['seed=' + ','.join(map(str, range(1001)))], [], '1001 work units, at most 1000'),
    (['data.train=' + 'x' * 300], [], 'would have a name of 311 characters'),
    ([], ['--x=a\0'], 'an argument must be text, not empty, without NUL'),
    ([], ['--x=\udcff'], 'an argument must be text, not empty, without NUL'),
    ([], [''], 'an argument must be text, not empty, without NUL'),
  ],
)
def test_bad_sweeps_are_one_sentence(config, sweeps, arguments, says):
  with pytest.raises(ValueError) as error:
    work_units('train', config, 'runs/a', sweeps, arguments)
  assert says in str(error.value)


def test_the_config_is_read_before_anything_is_rented(config):
  with pytest.raises((AttributeError, KeyError), match='peak_lrr'):
    work_units('train', config, 'runs/a', ['optim.peak_lrr=1'])
  with pytest.raises(Exception, match='float'):
    work_units('train', config, 'runs/a', [], ['--config.optim.peak_lr=fast'])
  with pytest.raises(Exception, match='nowhere.py'):
    work_units('train', 'nowhere.py', 'runs/a')
