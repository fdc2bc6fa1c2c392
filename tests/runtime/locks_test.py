# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
import threading
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from acl_jax.runtime import lock_holder, locks
from acl_jax.runtime.lock_holder import Holder

OTHER = Holder('other', 'far', 'far boot 1', 77, '5', 'train', 'noon')


@pytest.fixture(autouse=True)
def fast(monkeypatch):
  monkeypatch.setattr(locks, 'POLL_SECONDS', 0.01)
  monkeypatch.setattr(locks, 'SETTLE_SECONDS', 0.05)


def write(path, holder: Holder) -> None:
  path.write_text(json.dumps(holder._asdict()))


def test_a_second_program_is_refused_in_one_sentence(tmp_path):
  folder = tmp_path / 'a/out'
  with locks.own_folder(folder):
    with pytest.raises(ValueError, match=rf'^{folder}: .*process {os.getpid()} on '):
      with locks.own_folder(folder, '--workdir'):
        pass
    assert [path.name for path in folder.iterdir()] == [locks.NAME]
  assert not folder.exists()  # as before
  with pytest.raises(KeyError), locks.own_folder(folder):
    (folder / 'content').touch()
    raise KeyError
  assert [path.name for path in folder.iterdir()] == ['content']
  with locks.own_folder(folder):
    pass


@pytest.mark.full
def test_the_lock_of_a_killed_program_is_taken_over_at_once(tmp_path):
  code = """if True:
    import sys, time
    from pathlib import Path
    from acl_jax.runtime import locks
    with locks.own_folder(Path(sys.argv[1])):
      print('held', flush=True)
      time.sleep(60)
  """
  process = subprocess.Popen(
    [sys.executable, '-c', code, tmp_path], stdout=subprocess.PIPE
  )
  assert process.stdout and process.stdout.readline() == b'held\n'
  with pytest.raises(ValueError, match=f'process {process.pid}'):
    with locks.own_folder(tmp_path):
      pass
  process.kill()
  os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
  with locks.own_folder(tmp_path):
    process.wait()
  process.stdout.close()
  assert not list(tmp_path.iterdir())


def test_another_process_with_the_same_number_is_not_the_holder(tmp_path):
  mine = Holder.this_process()
  if not mine.started:
    pytest.skip('this system does not tell when processes started')
  write(tmp_path / locks.NAME, mine._replace(started='1'))
  with locks.own_folder(tmp_path):
    pass


def test_a_lease_of_another_host_runs_out(tmp_path, monkeypatch):
  path = tmp_path / locks.NAME
  write(path, OTHER)
  os.utime(path, (0, time.time() - locks.LEASE_SECONDS - 9))
  with locks.own_folder(tmp_path):  # without waiting
    pass
  monkeypatch.setattr(locks, 'LEASE_SECONDS', 0.3)
  write(path, OTHER)
  with locks.own_folder(tmp_path):
    pass


def test_another_host_that_renews_its_lease_is_not_disturbed(tmp_path, capsys):
  path, done = tmp_path / locks.NAME, threading.Event()
  write(path, OTHER)

  def renew():
    while not done.wait(0.02):
      os.utime(path)

  thread = threading.Thread(target=renew)
  thread.start()
  with pytest.raises(ValueError, match=r'train \(process 77 on far, since noon\) is'):
    with locks.own_folder(tmp_path):
      pass
  done.set()
  thread.join()
  assert 'a sign of life of train' in capsys.readouterr().err
  assert lock_holder.read_holder(path) == OTHER


def test_a_lock_is_renewed_until_it_is_taken_over(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, 'RENEWAL_SECONDS', 0.01)
  path = tmp_path / locks.NAME
  with pytest.raises(ValueError, match='taken over by train'):
    with locks.own_folder(tmp_path) as lock:
      os.utime(path, (0, 0))
      while not path.stat().st_mtime:
        time.sleep(0.01)
      write(path, OTHER)
      os.utime(path, (0, 0))
      with pytest.raises(ValueError, match='mixed'):
        lock.check()
      time.sleep(0.05)
  assert lock_holder.read_holder(path) == OTHER and not path.stat().st_mtime


@pytest.mark.parametrize('has_flock', [True, False])
def test_one_of_many_takes_a_stale_lock_over(tmp_path, monkeypatch, has_flock):
  if not has_flock:
    monkeypatch.setattr(locks.fcntl, 'flock', lambda *_: (_ for _ in ()).throw(OSError))
  dead = Holder.this_process()._replace(started='1')
  write(tmp_path / locks.NAME, dead)
  start, won, lost = threading.Barrier(5), [], []
  end = threading.Barrier(5)

  def run():
    start.wait()
    try:
      with locks.own_folder(tmp_path):
        won.append(1)
        end.wait()
    except ValueError as error:
      lost.append(error)
      end.wait()

  threads = [threading.Thread(target=run) for _ in range(5)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(won) == 1, lost


def test_a_lock_can_be_waited_for(tmp_path, capsys):
  order = []

  def wait():
    with locks.own_file(tmp_path / 'lock', 'the cache', waits=True):
      order.append('second')

  with locks.own_file(tmp_path / 'lock', 'the cache'):
    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    order.append('first')
  thread.join()
  assert order == ['first', 'second']
  assert 'the cache: waiting for' in capsys.readouterr().err


@hypothesis.given(
  st.one_of(
    st.binary(max_size=40),
    st.dictionaries(
      st.sampled_from([*Holder._fields, 'x']),
      st.one_of(st.none(), st.text(max_size=5), st.integers()),
    ).map(lambda value: json.dumps(value).encode()),
  )
)
def test_damaged_locks_are_those_of_an_unknown_holder(tmp_path_factory, content):
  path = tmp_path_factory.getbasetemp() / 'damaged lock'
  path.write_bytes(content)
  holder = lock_holder.read_holder(path)
  assert holder is not None and holder.is_alive in (True, False)
  assert str(holder)
