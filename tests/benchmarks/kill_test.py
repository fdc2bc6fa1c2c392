# SPDX-License-Identifier: Apache-2.0
"""The real program, killed and preempted; `benchmarks/kill.py` kills it often."""

import signal
import time

import pytest

from acl_jax.runtime import program
from benchmarks import kill

pytestmark = pytest.mark.full
SPOT_SECONDS = 30  # between the notice and the end of a Spot machine


class KillInSave:
  """A random generator whose draws kill as soon as a save begins."""

  def random(self):
    return 0.5

  def integers(self, low, high):
    return low

  def uniform(self, low, high):
    return low


def test_a_killed_and_preempted_training_ends_like_an_undisturbed_one(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(kill, 'STEPS', 24)
  config, workdir = kill.make_world(tmp_path), tmp_path / 'killed'
  kill.complete(config, tmp_path / 'undisturbed')
  assert kill.kill(config, workdir, KillInSave(), 0.0) in ('a save', 'a step')

  process = kill.start(config, workdir)
  assert next((line for line in process.stdout if line.startswith('ctc 8/')), None)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate()
  assert process.returncode == program.PREEMPTED, errors
  assert errors.splitlines()[-1].startswith('preempted ')
  saved = [int(path.name) for path in (workdir / 'ctc').iterdir()]
  assert 8 <= max(saved) < kill.STEPS

  kill.complete(config, workdir)
  assert kill.result(workdir) == kill.result(tmp_path / 'undisturbed')


def test_a_training_that_starts_ends_before_its_machine_does(tmp_path):
  config, workdir = kill.make_world(tmp_path), tmp_path / 'starts'
  process = kill.start(config, workdir)
  deadline = time.monotonic() + 120
  while not (workdir / 'ctc').exists() and time.monotonic() < deadline:
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)  # while the first step is compiled
  start = time.monotonic()
  _, errors = process.communicate(timeout=SPOT_SECONDS)
  assert process.returncode == program.PREEMPTED, errors
  assert time.monotonic() - start < SPOT_SECONDS / 2
  assert not [path for path in (workdir / 'ctc').iterdir() if path.name.isdecimal()]


def test_a_different_result_is_not_counted_as_survived(tmp_path, monkeypatch):
  monkeypatch.setattr(kill, 'make_world', lambda folder: folder / 'config.py')
  monkeypatch.setattr(kill, 'kill', lambda *_: 'a step')
  results = iter([1, 1, 2])
  monkeypatch.setattr(kill, 'result', lambda _: next(results))
  for folder in (0, 3):
    (tmp_path / f'killed-{folder}').mkdir(exist_ok=True)
  monkeypatch.setattr(kill, 'complete', lambda *_: 1.0)
  monkeypatch.setattr(kill, 'KILLS', 3)
  assert kill.run(tmp_path, trials=5, seed=0) == (5, 3)
