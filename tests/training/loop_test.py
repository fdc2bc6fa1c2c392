# SPDX-License-Identifier: Apache-2.0
"""The training loop with a model of one vector: no interruption changes its result."""

import itertools
import json
import logging
import os
import re
import resource
import signal
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.config import defaults
from acl_jax.config.experiment import parse_pretrain
from acl_jax.runtime import preemption, program, sigterm
from acl_jax.training import checkpoint, loop, profiling, startup
from acl_jax.training.journal import BatchFeed
from acl_jax.training.metrics import TIME_METRICS
from data_pipeline.buckets import BucketOrder

IDS = [f'u{i}' for i in range(9)]
STEPS, LOG, SAVE = 14, 3, 4  # log lines and checkpoints at different steps


class Rows(NamedTuple):
  frames: np.ndarray
  segment_ids: np.ndarray


def assemble(batch):
  frames = np.zeros((batch.rows, batch.length), np.float32)
  ids = np.zeros(frames.shape, np.int32)
  for i, row in enumerate(batch.utterances):
    if row:
      frames[i], ids[i, : 3 + row[0] % 4] = (sum(row) + 1) / 9, 1
  return Rows(frames, ids)


@jax.jit
def update(state, batch, key):
  noise = jax.random.normal(key, state['w'].shape)
  w = 0.9 * state['w'] + batch.frames.mean() + 0.1 * noise
  return {'w': w}, {'loss': jnp.square(w).mean()}


def make_config(**stage):
  c = defaults.pretrain_config()
  c.seed = 3
  c.encoder = dict(kind='conformer', sizes=defaults.PAPER_CONFORMER)
  c.data.update(train=(('nowhere', 1.0),), buckets=(7,))
  c.ctc.update(dict(steps=STEPS, log_every=LOG, save_every=SAVE) | stage)
  return parse_pretrain(c)


def make_feed(seed=3, on_policy=None):
  order = BucketOrder([5] * len(IDS), [7], 14, seed)
  return BatchFeed(order, assemble, 0.01, IDS, on_policy)


def measure_sum(state):
  return {'dev_wer': float(state['w'].sum())}


def run(
  workdir,
  config=None,
  seed=3,
  update=update,
  frozen=None,
  size=5,
  measure=measure_sum,
  on_policy=None,
):
  workdir.mkdir(exist_ok=True)
  state, feed = {'w': jnp.zeros(size)}, make_feed(seed, on_policy)
  config = config or make_config()
  return loop.run('ctc', config, workdir, state, feed, update, frozen or {}, measure)


def entries(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def metrics(workdir):
  return [
    {k: v for k, v in entry.items() if k not in TIME_METRICS}
    for entry in entries(workdir)
  ]


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  return workdir, run(workdir)


def assert_same(workdir, state, uninterrupted):
  np.testing.assert_array_equal(state['w'], uninterrupted[1]['w'])
  assert metrics(workdir) == metrics(uninterrupted[0])


def test_log_lines_and_checkpoints_are_at_the_steps_of_the_config(uninterrupted):
  workdir, _ = uninterrupted
  by_step = {entry['step']: entry for entry in entries(workdir)}
  assert list(by_step) == [3, 4, 6, 8, 9, 12, 14]
  assert [step for step in by_step if 'dev_wer' in by_step[step]] == [4, 8, 12, 14]
  steps = [int(path.name) for path in (workdir / 'ctc').iterdir()]
  assert sorted(steps) == [12, 14]


@pytest.mark.parametrize('step', [1, 4, 5, 6, 12, 14])
def test_preemption_at_any_step_changes_nothing(
  uninterrupted, tmp_path, monkeypatch, step
):
  """The log lines are the same, including the padding since the last line.

  Measuring may take long, so the run that resumes does it.
  """

  def refuse(state):
    raise AssertionError('measured before the machine is taken away')

  checks = itertools.count(1)
  with monkeypatch.context() as patch:
    patch.setattr(preemption, 'is_requested', lambda: next(checks) == step)
    with pytest.raises(program.Preempted, match=rf'ctc .*\b{step}$'):
      run(tmp_path, measure=refuse if step == 4 else measure_sum)
  assert (tmp_path / f'ctc/{step}').is_dir()
  assert_same(tmp_path, run(tmp_path), uninterrupted)


def test_preemption_ends_what_takes_long_within_a_step(
  uninterrupted, tmp_path, handled_sigterm
):
  """Measuring, and the student's answers before a step; the last step is saved."""

  def notify():
    os.kill(os.getpid(), signal.SIGTERM)
    preemption.raise_if_requested('the rest')
    raise AssertionError('the rest was done')

  with pytest.raises(program.Preempted, match='ctc at step 8'):
    run(tmp_path, measure=interrupted(measure_sum, 2, notify))
  sigterm.uninstall()
  sigterm.install()

  class Answers:
    extend = staticmethod(interrupted(lambda step, *args: args[-1], 3, notify))
    metadata = staticmethod(lambda step: {})
    restore = staticmethod(lambda metadata: None)

  with pytest.raises(program.Preempted, match='the rest'):
    run(tmp_path, on_policy=Answers)
  assert (tmp_path / 'ctc/10').is_dir()
  sigterm.uninstall()
  assert_same(tmp_path, run(tmp_path), uninterrupted)


def test_preemption_before_the_first_step_saves_nothing(tmp_path, handled_sigterm):
  def compile(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError('the step was made')

  with pytest.raises(program.Preempted):
    run(tmp_path, update=compile)
  assert not list((tmp_path / 'ctc').iterdir())


def interrupted(function, number, interrupt):
  """Return a function that calls `interrupt` instead at its call of this number."""
  count = itertools.count(1)
  return lambda *args: interrupt() if next(count) == number else function(*args)


def interrupted_update(step):
  """Return an update that raises KeyboardInterrupt at a step."""
  count = itertools.count(1)

  def interrupted(*args):
    if next(count) == step:
      raise KeyboardInterrupt
    return update(*args)

  return interrupted


def test_goodput_counts_restarts_and_repeated_steps(uninterrupted, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, update=interrupted_update(8))  # 6 has a log line, 4 a checkpoint
  assert_same(tmp_path, run(tmp_path), uninterrupted)
  last = entries(tmp_path)[-1]
  assert (last['restarts'], last['lost_steps']) == (1, 2)
  assert 0 < last['goodput'] < 1
  expected = entries(uninterrupted[0])[-1]
  assert (expected['restarts'], expected['lost_steps']) == (0, 0)


def test_a_nan_logs_its_utterances_and_is_not_saved(tmp_path, caplog):
  def nan_update(state, batch, key):
    new, values = update(state, batch, key)
    bad = np.isin(9 / 9, np.asarray(batch.frames)) & (state['w'] != 0).any()
    return new, {'loss': values['loss'] + jnp.where(bad, jnp.nan, 0)}

  config = make_config(save_every=1, log_every=100)
  with caplog.at_level(logging.ERROR, 'absl'):
    with pytest.raises(FloatingPointError, match=r'loss .*\bctc\b.*\bnan\b'):
      run(tmp_path, config, update=nan_update)
  failed = entries(tmp_path)[-1]
  assert np.isnan(failed['loss'])
  ids = [IDS[i] for i in make_feed().order[failed['step'] - 1].indices]
  assert 'u8' in ids
  assert f'step {failed["step"]}: {" ".join(ids)}\n' in caplog.text
  saved = [int(path.name) for path in (tmp_path / 'ctc').iterdir()]
  assert max(saved) == failed['step'] - 1


def test_infinite_losses_are_detected_between_log_lines(tmp_path):
  def infinite_update(state, batch, key):
    new, values = update(state, batch, key)
    return new, {'loss': values['loss'] / (state['w'] == 0).all()}

  config = make_config(log_every=1000, save_every=1000)
  with pytest.raises(FloatingPointError, match=r'loss .*\bctc\b.*\binf\b.* 2\b'):
    run(tmp_path, config, update=infinite_update)


class FileSizeLimit:
  """A limit on the size of files, which simulates a full disk."""

  def __init__(self, size):
    self.size = size

  def __enter__(self):
    self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

  def __exit__(self, *_):
    resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def full_disk_update(saved, limit, until=10**9):
  """Return an update with a full disk from step 6 to step `until`.

  saved: the checkpoint that step 6 waits for.
  """
  count = itertools.count(1)

  def full_disk(*args):
    step = next(count)
    if step == 6:
      while not saved.exists():
        time.sleep(0.01)
      limit.__enter__()
    if step == until:
      while any(thread.name == 'async_save' for thread in threading.enumerate()):
        time.sleep(0.01)
      limit.__exit__()
    return update(*args)

  return full_disk


@pytest.fixture
def limit():
  limit = FileSizeLimit(200)
  limit.before = resource.getrlimit(resource.RLIMIT_FSIZE)
  yield limit
  limit.__exit__()


def test_training_continues_on_a_full_disk(uninterrupted, tmp_path, limit, caplog):
  full_disk = full_disk_update(tmp_path / 'ctc/4', limit, until=11)
  with caplog.at_level(logging.WARNING, 'absl'):
    assert_same(tmp_path, run(tmp_path, update=full_disk), uninterrupted)
  logged = f'{tmp_path}/ctc: checkpoint 8 cannot be saved (File too large)'
  assert caplog.text.count(logged) == 1
  assert 'the last good one is 4' in caplog.text
  assert 'checkpoints can be saved again' in caplog.text
  assert 'Traceback' not in caplog.text


def test_a_failed_save_is_repeated_as_soon_as_possible(tmp_path, limit):
  config = make_config(log_every=1, save_every=8, steps=15)
  full_disk = full_disk_update(tmp_path / 'ctc', limit, until=11)
  count = itertools.count(1)

  def interrupted(*args):
    if next(count) == 14:
      raise KeyboardInterrupt
    return full_disk(*args)

  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, config, update=interrupted)
  saved = {int(path.name) for path in (tmp_path / 'ctc').iterdir()}
  assert saved and saved <= {10, 11, 12, 13}


def test_a_disk_that_stays_full_ends_training_and_damages_nothing(
  uninterrupted, tmp_path, limit, monkeypatch
):
  monkeypatch.setattr(checkpoint, 'FAILURE_SECONDS', 0.2)
  monkeypatch.setattr(checkpoint, 'RETRY_SECONDS', 0.1)
  with pytest.raises(OSError, match=r'no checkpoint could be saved for .* min \(File '):
    run(tmp_path, update=full_disk_update(tmp_path / 'ctc/4', limit))
  limit.__exit__()
  assert [path.name for path in (tmp_path / 'ctc').iterdir()] == ['4']
  assert_same(tmp_path, run(tmp_path), uninterrupted)


def interrupt(workdir, step, **options):
  """Run until a step."""
  with pytest.raises(KeyboardInterrupt):
    run(workdir, update=interrupted_update(step), **options)


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(seed=4), r'batch .*step 8\b'),
    (dict(frozen={'llama': 'f00'}), r'frozen .*\{\}.*"llama": "f00"'),
    (dict(size=6), r'w has shape \(5,\) .*shape \(6,\)'),
  ],
)
def test_the_workdir_of_another_training_is_refused(tmp_path, change, message):
  interrupt(tmp_path, 10)
  before = sorted(path.name for path in tmp_path.rglob('*'))
  with pytest.raises(ValueError, match=f'{tmp_path}/ctc/8: .*{message}.*--workdir'):
    run(tmp_path, **change)
  after = sorted(path.name for path in tmp_path.rglob('*'))
  assert before == after


def test_a_foreign_checkpoint_is_moved_aside_for_an_older_one(
  uninterrupted, tmp_path, caplog
):
  interrupt(tmp_path, 7)
  interrupt(tmp_path / 'other', 10, seed=4)
  (tmp_path / 'other/ctc/8').rename(tmp_path / 'ctc/8')
  with caplog.at_level(logging.WARNING, 'absl'):
    assert_same(tmp_path, run(tmp_path), uninterrupted)
  assert re.search(f'checkpoint 8 of {tmp_path}/ctc: .*batch .*step 8', caplog.text)


def test_changed_settings_are_logged(tmp_path, caplog):
  interrupt(tmp_path, 10)
  with caplog.at_level(logging.WARNING, 'absl'):
    run(tmp_path, make_config(steps=16))
  assert 'config.ctc.steps: 14 -> 16' in caplog.text
  assert entries(tmp_path)[-1]['step'] == 16


def test_the_requested_steps_are_profiled(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(profiling, 'parse_steps', lambda _: range(2, 4))
  run(tmp_path, make_config(steps=4))
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
  assert f'profile: steps 2 to 3 in {tmp_path}/profile' in capsys.readouterr().out


@pytest.mark.parametrize('text', ['5', '0:3', '5:4', 'a:b', '1:2:3', '-1:5'])
def test_profiled_steps_are_a_range(text):
  with pytest.raises(ValueError, match=f'--profile_steps={text}: .*FIRST:LAST'):
    profiling.parse_steps(text)
  assert profiling.parse_steps('10:15') == range(10, 16)


def test_the_time_to_the_first_step_is_logged_by_stage(tmp_path, capsys):
  run(tmp_path, make_config(steps=1))
  lines = capsys.readouterr().out.splitlines()
  (line,) = [line for line in lines if 'first step after' in line]
  stages = {'checkpoint', 'first batch', 'compilation', 'step'}
  assert all(f' {stage} ' in line for stage in stages)
  begin = time.time()
  run(tmp_path, make_config(steps=3))  # a second start appends
  first, second = map(json.loads, (tmp_path / startup.FILE).read_text().splitlines())
  assert (first['step'], second['step'], second['processes']) == (1, 2, 1)
  assert stages <= first['seconds'].keys() and second['stage'] == first['stage']
  assert sum(second['seconds'].values()) == pytest.approx(second['total'], abs=0.01)
  assert first['time'] < begin < second['time']
