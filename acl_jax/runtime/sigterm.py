# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, the notice that a machine is being taken away; some give it 30 s before.

Where nothing is unsaved, the program ends at once: the main thread raises `Preempted`,
and a thread ends the process if the main one does not get there, because it is in a
call that Python cannot interrupt, such as a compilation. Within `deferred`, the notice
waits until the work has been saved. A second signal ends the program in any case.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

PREEMPTED = 42  # exit code
UNWIND_SECONDS = 3.0  # that the main thread has, to end by itself
# Signals this close together are one: launchers pass on what all processes got.
REPEAT_SECONDS = 1.0
_END = b'preempted: run me again\n'


class Preempted(BaseException):
  """The machine is being taken away, and all progress has been saved.

  Like KeyboardInterrupt no `Exception`, so that it is not handled as an error.
  """


class _Notice:
  """What is known of SIGTERM, and how many `deferred` blocks are open."""

  is_received = False
  num_deferrals = 0
  native: Callable[[int], object] | None = None  # a handler to call as well
  stop_watching: Callable[[], None] | None = None


_notice = _Notice()


def install() -> None:
  """Handle SIGTERM from now on.

  In threads other than the main one this does nothing: they cannot handle signals.
  """
  if threading.current_thread() is not threading.main_thread():
    return
  if _notice.stop_watching is None:
    _notice.stop_watching = _start_watching()
  signal.signal(signal.SIGTERM, _on_sigterm)


def take_back() -> None:
  """Handle SIGTERM again, if native code may have replaced the handler."""
  if _notice.stop_watching is not None:
    install()


def uninstall() -> None:
  """Undo `install`, and forget what was received."""
  if _notice.stop_watching is not None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _notice.stop_watching()
  _notice.is_received, _notice.num_deferrals = False, 0
  _notice.native = _notice.stop_watching = None


def is_received() -> bool:
  """Return whether this process has got the signal."""
  return _notice.is_received


def end_process(leave_job: bool = True) -> NoReturn:
  """End the process with `PREEMPTED`.

  Python itself would wait for threads and for compilations in progress.

  leave_job: let JAX wait for the other processes, which must still run.
  """
  if leave_job:
    with contextlib.suppress(Exception):
      atexit._run_exitfuncs()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(PREEMPTED)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Let the block save before it ends: it must look at `is_received` often.

  Raises `Preempted` at its end if the signal came too late for that.
  """
  _notice.num_deferrals += 1
  try:
    yield
  finally:
    _notice.num_deferrals -= 1
  if _notice.is_received and not _notice.num_deferrals:
    raise Preempted


def call_native_handler() -> None:
  """Take SIGTERM back from native code, and call its handler whenever the signal comes.

  JAX's handler, by which the processes of a job agree when to stop, is a function of
  the signal's number. Does nothing before `install`.
  """
  if _notice.stop_watching is None:
    return
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
  libc.signal.restype = ctypes.c_void_p
  address = libc.signal(signal.SIGTERM, None)
  signal.signal(signal.SIGTERM, _on_sigterm)
  pythons = libc.signal(signal.SIGTERM, None)
  signal.signal(signal.SIGTERM, _on_sigterm)
  if address and address not in (1, pythons):  # the default, and ignored
    _notice.native = ctypes.CFUNCTYPE(None, ctypes.c_int)(address)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
  """Run in the main thread, between two instructions of Python."""
  del frame
  is_first, _notice.is_received = not _notice.is_received, True
  if _notice.native is not None:
    _notice.native(number)
  if is_first and not _notice.num_deferrals:
    raise Preempted


def _start_watching() -> Callable[[], None]:
  """Start the thread that sees signals at once; returns what stops it."""
  receiver, sender = socket.socketpair()
  sender.setblocking(False)
  signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
  is_stopped = threading.Event()
  threading.Thread(
    target=_watch, args=(receiver, is_stopped), name='sigterm', daemon=True
  ).start()

  def forget() -> None:  # or a signal to a child would seem to be one to the parent
    if not is_stopped.is_set():
      signal.set_wakeup_fd(-1)
      signal.signal(signal.SIGTERM, signal.SIG_DFL)

  os.register_at_fork(after_in_child=forget)

  def stop() -> None:
    is_stopped.set()
    signal.set_wakeup_fd(-1)
    sender.close()

  return stop


def _watch(receiver: socket.socket, is_stopped: threading.Event) -> None:
  """End the process `UNWIND_SECONDS` after the signal, or at a second one."""
  first = None
  with receiver:
    while numbers := receiver.recv(256):
      if signal.SIGTERM not in numbers:
        continue
      if signal.getsignal(signal.SIGTERM) is not _on_sigterm:
        continue  # a server handles it in its own way
      now = time.monotonic()
      if first is None:
        first = now
        if not _notice.num_deferrals:
          arguments = is_stopped, UNWIND_SECONDS
          threading.Thread(target=_end, args=arguments, daemon=True).start()
      elif now - first > REPEAT_SECONDS:
        _end(is_stopped, 0.0)


def _end(is_stopped: threading.Event, seconds: float) -> None:
  """End the process after some seconds without any cleanup, unless stopped."""
  if not is_stopped.wait(seconds):
    os.write(2, _END)
    os._exit(PREEMPTED)
