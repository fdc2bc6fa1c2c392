# SPDX-License-Identifier: Apache-2.0
"""The loop with a model of one vector: whatever happens, it ends as if nothing had."""

import itertools
import json
import logging
import resource
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from acl_jax.runtime import preemption, program
from acl_jax.training import checkpoint, loop, profiling
from acl_jax.training.journal import BatchFeed
from acl_jax.training.metrics import TIME_METRICS
from data_pipeline.buckets import BucketOrder

IDS = [f'u{i}' for i in range(9)]
STEPS, LOG, SAVE = 14, 3, 4  # so that lines and checkpoints stand at different steps


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
  c = ConfigDict(dict(seed=3))
  c.ctc = dict(steps=STEPS, log_every=LOG, save_every=SAVE) | stage
  return c


def feed(seed=3):
  return BatchFeed(BucketOrder([5] * len(IDS), [7], 14, seed), assemble, 0.01, IDS)


def measured(state):
  return {'dev_wer': float(state['w'].sum())}


def run(
  workdir, config=None, seed=3, update=update, frozen=None, size=5, measure=measured
):
  workdir.mkdir(exist_ok=True)
  state = {'w': jnp.zeros(size)}
  config = config or make_config()
  return loop.run(
    'ctc', config, workdir, state, feed(seed), update, frozen or {}, measure
  )


def entries(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def metrics(workdir):
  return [
    {k: v for k, v in entry.items() if k not in TIME_METRICS}
    for entry in entries(workdir)
  ]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, run(workdir)


def assert_same(workdir, state, whole):
  np.testing.assert_array_equal(state['w'], whole[1]['w'])
  assert metrics(workdir) == metrics(whole[0])


def test_lines_and_checkpoints_stand_where_the_config_says(whole):
  found = {entry['step']: entry for entry in entries(whole[0])}
  assert list(found) == [3, 4, 6, 8, 9, 12, 14]
  assert [step for step in found if 'dev_wer' in found[step]] == [4, 8, 12, 14]
  steps = [int(path.name) for path in (whole[0] / 'ctc').iterdir()]
  assert sorted(steps) == [12, 14]


@pytest.mark.parametrize('step', [1, 4, 5, 6, 12, 14])
def test_preempted_anywhere_it_ends_as_if_it_had_not_been(
  whole, tmp_path, monkeypatch, step
):
  """No line more and none less, the padding between lines and the measures included.

  Measures may take long, so they are left to the run that continues.
  """

  def never(state):
    raise AssertionError('measured in a hurry')

  asked = itertools.count(1)
  with monkeypatch.context() as patch:
    patch.setattr(preemption, 'is_requested', lambda: next(asked) == step)
    with pytest.raises(program.Preempted, match=f'ctc at step {step}'):
      run(tmp_path, measure=never if step == 4 else measured)
  assert (tmp_path / f'ctc/{step}').is_dir()
  assert_same(tmp_path, run(tmp_path), whole)


def stopping_at(step):
  """An update that fails when the loop has dispatched so many steps."""
  count = itertools.count(1)

  def interrupted(*args):
    if next(count) == step:
      raise KeyboardInterrupt
    return update(*args)

  return interrupted


def test_goodput_counts_restarts_and_steps_done_twice(whole, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, update=stopping_at(8))  # 6 has a line, 4 a checkpoint
  assert_same(tmp_path, run(tmp_path), whole)
  last = entries(tmp_path)[-1]
  assert (last['restarts'], last['lost_steps']) == (1, 2)
  assert 0 < last['goodput'] < 1
  untroubled = entries(whole[0])[-1]
  assert (untroubled['restarts'], untroubled['lost_steps']) == (0, 0)


def test_what_is_not_a_number_names_its_recordings_and_is_not_kept(tmp_path, caplog):
  def poisoned(state, batch, key):
    new, values = update(state, batch, key)
    bad = np.isin(9 / 9, np.asarray(batch.frames)) & (state['w'] != 0).any()
    return new, {'loss': values['loss'] + jnp.where(bad, jnp.nan, 0)}

  config = make_config(save_every=1, log_every=100)
  with caplog.at_level(logging.ERROR, 'absl'):
    with pytest.raises(FloatingPointError, match='loss of stage ctc is nan at step'):
      run(tmp_path, config, update=poisoned)
  failed = entries(tmp_path)[-1]
  assert np.isnan(failed['loss'])
  names = [IDS[i] for i in feed().order[failed['step'] - 1].indices]
  assert 'u8' in names
  assert f'the recordings of step {failed["step"]}: {" ".join(names)}' in caplog.text
  kept = [int(path.name) for path in (tmp_path / 'ctc').iterdir()]
  assert max(kept) == failed['step'] - 1


def test_what_is_not_a_number_is_seen_between_two_lines(tmp_path):
  def poisoned(state, batch, key):
    new, values = update(state, batch, key)
    return new, {'loss': values['loss'] / (state['w'] == 0).all()}

  with pytest.raises(FloatingPointError, match='loss of stage ctc is inf at step 2'):
    run(tmp_path, make_config(log_every=1000, save_every=1000), update=poisoned)


class Limit:
  """No file may be larger than this: what a full disk is to those who write."""

  def __init__(self, size):
    self.size = size

  def __enter__(self):
    self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

  def __exit__(self, *_):
    resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def full_from(saved, limit, until=10**9):
  """An update that finds the disk full once something is saved, until another step."""
  count = itertools.count(1)

  def taken(*args):
    number = next(count)
    if number == 6:
      while not saved.exists():
        time.sleep(0.01)
      limit.__enter__()
    if number == until:
      while any(thread.name == 'async_save' for thread in threading.enumerate()):
        time.sleep(0.01)
      limit.__exit__()
    return update(*args)

  return taken


@pytest.fixture
def limit():
  limit = Limit(200)
  limit.before = resource.getrlimit(resource.RLIMIT_FSIZE)
  yield limit
  limit.__exit__()


def test_a_full_disk_is_waited_for(whole, tmp_path, limit, caplog):
  with caplog.at_level(logging.WARNING, 'absl'):
    assert_same(
      tmp_path, run(tmp_path, update=full_from(tmp_path / 'ctc/4', limit, 11)), whole
    )
  said = f'{tmp_path}/ctc: checkpoint 8 cannot be saved (File too large); training goes'
  assert caplog.text.count(said) == 1
  assert 'the last good one is 4' in caplog.text
  assert 'checkpoints can be saved again' in caplog.text
  assert 'Traceback' not in caplog.text


def test_what_could_not_be_saved_is_saved_before_the_next_time(tmp_path, limit):
  config = make_config(log_every=1, save_every=8, steps=15)
  full = full_from(tmp_path / 'ctc', limit, 11)
  count = itertools.count(1)

  def interrupted(*args):
    if next(count) == 14:
      raise KeyboardInterrupt
    return full(*args)

  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, config, update=interrupted)
  kept = {int(path.name) for path in (tmp_path / 'ctc').iterdir()}
  assert kept and kept <= {10, 11, 12, 13}


def test_a_disk_that_stays_full_ends_the_training_and_spoils_nothing(
  whole, tmp_path, limit, monkeypatch
):
  monkeypatch.setattr(checkpoint, 'FAILURE_SECONDS', 0.2)
  monkeypatch.setattr(checkpoint, 'RETRY_SECONDS', 0.1)
  with pytest.raises(OSError, match=r'no checkpoint could be saved for .* min \(File '):
    run(tmp_path, update=full_from(tmp_path / 'ctc/4', limit))
  limit.__exit__()
  assert [path.name for path in (tmp_path / 'ctc').iterdir()] == ['4']
  assert_same(tmp_path, run(tmp_path), whole)


def interrupted_at(workdir, step, **how):
  with pytest.raises(KeyboardInterrupt):
    run(workdir, update=stopping_at(step), **how)


@pytest.mark.parametrize(
  'change, complaint',
  [
    (dict(seed=4), 'the batch after it is not that of this config at step 8'),
    (dict(frozen={'llama': 'f00'}), r'it goes with the frozen \{\}, this config with'),
    (dict(size=6), r'of another model .* w has shape \(5,\) in it and shape \(6,\)'),
  ],
)
def test_the_folder_of_another_training_is_refused(tmp_path, change, complaint):
  interrupted_at(tmp_path, 10)
  before = sorted(path.name for path in tmp_path.rglob('*'))
  with pytest.raises(ValueError, match=f'{tmp_path}/ctc/8: .*{complaint}.*--workdir'):
    run(tmp_path, **change)
  after = sorted(path.name for path in tmp_path.rglob('*'))
  assert before == after


def test_a_foreign_checkpoint_is_set_aside_for_one_that_fits(whole, tmp_path, caplog):
  interrupted_at(tmp_path, 7)
  interrupted_at(tmp_path / 'other', 10, seed=4)
  (tmp_path / 'other/ctc/8').rename(tmp_path / 'ctc/8')
  with caplog.at_level(logging.WARNING, 'absl'):
    assert_same(tmp_path, run(tmp_path), whole)
  assert f'checkpoint 8 of {tmp_path}/ctc: the batch after it is not' in caplog.text


def test_settings_may_change_and_it_is_said(tmp_path, caplog):
  interrupted_at(tmp_path, 10)
  with caplog.at_level(logging.WARNING, 'absl'):
    run(tmp_path, make_config(steps=16))
  assert 'the config has changed: config.ctc.steps: 14 -> 16' in caplog.text
  assert entries(tmp_path)[-1]['step'] == 16


def test_the_steps_asked_for_are_traced(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(profiling, 'parse_steps', lambda _: range(2, 4))
  run(tmp_path, make_config(steps=4))
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
  assert f'profile: steps 2 to 3 in {tmp_path}/profile' in capsys.readouterr().out


@pytest.mark.parametrize('text', ['5', '0:3', '5:4', 'a:b', '1:2:3', '-1:5'])
def test_steps_to_trace_are_a_range(text):
  with pytest.raises(ValueError, match=f'--profile_steps={text}: write FIRST:LAST'):
    profiling.parse_steps(text)
  assert profiling.parse_steps('10:15') == range(10, 16)


def test_where_the_time_before_the_first_step_went(tmp_path, capsys):
  run(tmp_path, make_config(steps=1))
  (said,) = [
    line for line in capsys.readouterr().out.splitlines() if 'first step after' in line
  ]
  for stage in ('checkpoint', 'first batch', 'compilation', 'step'):
    assert f' {stage} ' in said
