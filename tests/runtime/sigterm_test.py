# SPDX-License-Identifier: Apache-2.0
"""SIGTERM ends a program at once where nothing is unsaved, and else after saving."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acl_jax.runtime import preemption, sigterm
from acl_jax.runtime.sigterm import Preempted

ROOT = Path(__file__).parent.parent.parent
SPOT_SECONDS = 30  # between the notice and the end of a Spot machine


def notify():
  os.kill(os.getpid(), signal.SIGTERM)


def test_the_main_thread_ends_where_nothing_is_unsaved(handled_sigterm):
  with pytest.raises(Preempted):
    try:
      notify()
      time.sleep(SPOT_SECONDS)
    except Exception:  # as code does that goes on after an error
      pass
  assert not issubclass(Preempted, Exception)


def test_what_is_unsaved_defers_the_end(handled_sigterm):
  steps = []
  with pytest.raises(Preempted):
    with sigterm.deferred(), sigterm.deferred():
      assert not preemption.is_requested()
      notify()
      steps.append(preemption.is_requested())
    steps.append('saved')
  assert steps == [True]


def test_saving_in_time_ends_once(handled_sigterm):
  with pytest.raises(Preempted, match='^step 3$'):
    with sigterm.deferred():
      notify()
      preemption.raise_if_requested('step 3')


def test_without_a_signal_nothing_happens(handled_sigterm):
  with sigterm.deferred():
    preemption.raise_if_requested('step 3')
  assert not sigterm.is_received()


@pytest.mark.filterwarnings('ignore:os.fork', 'ignore:This process')  # by threads
def test_a_signal_to_a_child_is_none_to_its_parent(handled_sigterm):
  if (child := os.fork()) == 0:
    notify()
    os._exit(0)
  _, status = os.waitpid(child, 0)
  assert os.WTERMSIG(status) == signal.SIGTERM
  time.sleep(0.05)  # the thread that watches would have seen it
  assert not sigterm.is_received()


@pytest.mark.parametrize('times', [1, 2])
def test_a_handler_of_native_code_is_called_too(handled_sigterm, times):
  """As JAX's is, by which processes agree; the handler of Python is never its own."""
  called, libc = [], ctypes.CDLL(None)
  kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
  native = kind(called.append)
  libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, kind), ctypes.c_void_p
  libc.signal(signal.SIGTERM, native)
  for _ in range(times):
    sigterm.call_native_handler()
  with pytest.raises(Preempted), sigterm.deferred():
    notify()
    assert sigterm.is_received()
  assert called == [signal.SIGTERM]


SCRIPT = """
import ctypes, sys, threading
from acl_jax.runtime import program, sigterm

def block():  # a call of native code that no signal ends, as a compilation is
  mutex = ctypes.create_string_buffer(256)
  for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(mutex)

def main(argv):
  threading.Timer(1, print, ['blocked'], {'flush': True}).start()
  if argv[1] == 'deferred':
    with sigterm.deferred():
      block()
  block()

program.run(main, 'HOW')
"""


def end(process: subprocess.Popen, signals: int) -> tuple[float, str]:
  """Send signals; return the seconds that the process took to end, and its errors."""
  start = time.monotonic()
  for number in range(signals):
    if number:
      time.sleep(1.5 * sigterm.REPEAT_SECONDS)
      assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # a launcher's copy of the same notice
  _, errors = process.communicate(timeout=SPOT_SECONDS)
  return time.monotonic() - start, errors


@pytest.mark.full
@pytest.mark.parametrize('how, signals', [('start', 1), ('start', 2), ('deferred', 2)])
def test_a_blocking_call_ends_too(how, signals):
  process = subprocess.Popen(
    [sys.executable, '-c', SCRIPT, how],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout and process.stdout.readline() == 'blocked\n'
  seconds, errors = end(process, signals)
  assert process.returncode == 42 and errors == 'preempted: run me again\n'
  assert seconds < 3 * sigterm.UNWIND_SECONDS
