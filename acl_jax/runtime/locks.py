# SPDX-License-Identifier: Apache-2.0
"""Advisory locks: one program at a time writes to a folder.

A lock is a small JSON file, created exclusively, that names its holder: host, process
and start. The holder renews the date of the file every few seconds. A lock is stale,
and taken over, if its process on this host is dead; that of another host, if it was not
renewed for `LEASE_SECONDS`. So it works on network file systems without `flock`, which
only makes taking over on one host free of races.
"""

import contextlib
import fcntl
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from acl_jax.runtime.files import write_atomically
from acl_jax.runtime.lock_holder import Holder, read_holder

NAME = '.lock'  # of the file in a folder
LEASE_SECONDS = 120.0
RENEWAL_SECONDS = 5.0
POLL_SECONDS = 0.5
SETTLE_SECONDS = 1.0  # within which hosts that take over at the same moment both write


class Lock:
  """A lock that this process holds; see `own_file`."""

  def __init__(self, path: Path, holder: Holder):
    self.path, self.holder = path, holder
    self._released = threading.Event()
    self._renewal = threading.Thread(target=self._renew, daemon=True)
    self._renewal.start()

  def check(self) -> None:
    """Raise ValueError unless the lock is still held."""
    other = read_holder(self.path)
    if other is None or other.token != self.holder.token:
      by = f'by {other}' if other else 'and removed'
      raise ValueError(
        f'{self.path}: the lock was taken over {by} while this program ran; what it'
        ' wrote may be mixed with the output of another. Run it again'
      )

  def release(self) -> None:
    """Give the lock back, if it is still held."""
    self._released.set()
    self._renewal.join()
    with contextlib.suppress(OSError, ValueError):
      self.check()
      self.path.unlink()

  def _renew(self) -> None:
    while not self._released.wait(RENEWAL_SECONDS):
      with contextlib.suppress(OSError):  # the file system may be back in time
        if (other := read_holder(self.path)) and other.token == self.holder.token:
          os.utime(self.path)


@contextlib.contextmanager
def own_folder(folder: Path, flag: str = '--output') -> Iterator[Lock]:
  """Hold the lock of a folder, created if necessary, for the duration of the block.

  flag: names the folder in advice. ValueError if another program holds the lock or, at
  the end of the block, if one has taken it over.
  """
  is_new = not folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  try:
    with own_file(folder / NAME, str(folder), flag) as lock:
      yield lock
  finally:
    if is_new:
      with contextlib.suppress(OSError):  # unless it has content now
        folder.rmdir()


@contextlib.contextmanager
def own_file(
  path: Path, what: str, flag: str = '--output', waits: bool = False
) -> Iterator[Lock]:
  """As `own_folder`, with the path of the lock itself.

  what: the lock is for. waits: for another holder, instead of raising ValueError.
  """
  lock = Lock(path, _acquire(path, what, flag, waits))
  try:
    yield lock
    lock.check()
  finally:
    lock.release()


def _acquire(path: Path, what: str, flag: str, waits: bool) -> Holder:
  mine, is_logged = Holder.this_process(), False
  seen: tuple[str, int] | None = None  # token and date of the lock of another host
  while other := _take(path, mine):
    if not waits:
      stamp = other.token, _date(path)
      if other.machine == mine.machine or seen not in (None, stamp):
        raise ValueError(
          f'{what}: {other} is writing here; wait for it, or choose another {flag}'
        )
      seen = stamp
    if not is_logged:
      sign = '' if waits else 'a sign of life of '
      print(f'{what}: waiting for {sign}{other}', file=sys.stderr, flush=True)
      is_logged = True
    time.sleep(POLL_SECONDS)
  return mine


def _take(path: Path, mine: Holder) -> Holder | None:
  """Take a lock that is free or stale; otherwise return its holder."""
  content = json.dumps(mine._asdict())
  with _alone_on_this_host(path.parent) as is_alone:
    while (other := read_holder(path)) is None:
      if _create(path, content):
        return None
    if not _is_stale(path, other, mine):
      return other
    write_atomically(path, content)
    if is_alone and other.machine == mine.machine:
      return None
  time.sleep(SETTLE_SECONDS)
  last = read_holder(path) or Holder()
  return None if last.token == mine.token else last


def _create(path: Path, content: str) -> bool:
  """Create a file; returns False if it exists."""
  try:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
  except FileExistsError:
    return False
  try:
    with os.fdopen(descriptor, 'w') as file:
      file.write(content)
  except OSError:  # no space is left
    path.unlink(missing_ok=True)
    raise
  return True


def _is_stale(path: Path, other: Holder, mine: Holder) -> bool:
  if other.machine == mine.machine:
    return not other.is_alive
  # By the clock of the file system, which may differ from that of this host.
  with tempfile.TemporaryFile(dir=path.parent) as probe:
    now = os.fstat(probe.fileno()).st_mtime_ns
  return now - _date(path) > LEASE_SECONDS * 1e9


@contextlib.contextmanager
def _alone_on_this_host(folder: Path) -> Iterator[bool]:
  """Exclude other processes of this host; yields False without `flock`."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX)
      is_alone = True
    except OSError:
      is_alone = False
    yield is_alone
  finally:
    os.close(descriptor)


def _date(path: Path) -> int:
  """Return when a file was written, in ns; 0 if there is none."""
  try:
    return path.stat().st_mtime_ns
  except FileNotFoundError:
    return 0
