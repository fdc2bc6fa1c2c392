# SPDX-License-Identifier: Apache-2.0
"""An object store on this machine, `faulty://bucket/…`, that fails as it is told to."""

import collections
from pathlib import Path

import fsspec
from fsspec.spec import AbstractFileSystem

URL = 'faulty://bucket'


class FaultyStore(AbstractFileSystem):
  """Serves the files of `root`.

  faults: of the next calls, each called with the bytes that it may change; None: none.
  reads: (name, start, stop) of every range that was asked for.
  """

  protocol = 'faulty'
  cachable = False
  root = Path()
  faults: collections.deque = collections.deque()
  reads: list = []  # noqa: RUF012
  lists = 0

  def _path(self, path: str) -> Path:
    return self.root / self._strip_protocol(path).partition('/')[2]

  def _fail(self, content: bytes = b'') -> bytes:
    fault = type(self).faults.popleft() if type(self).faults else None
    return fault(content) if fault else content

  def ls(self, path, detail=True, **_):
    type(self).lists += 1
    self._fail()
    path = self._strip_protocol(path)
    files = self._path(path).iterdir()
    return [self._entry(f'{path}/{each.name}', each) for each in files]

  def info(self, path, **_):
    self._fail()
    return self._entry(self._strip_protocol(path), self._path(path))

  def _entry(self, name: str, path: Path) -> dict:
    stat = path.stat()
    kind = 'directory' if path.is_dir() else 'file'
    return {'name': name, 'size': stat.st_size, 'type': kind, 'mtime': stat.st_mtime_ns}

  def cat_file(self, path, start=None, end=None, **_):
    self.reads.append((self._path(path).name, start, end))
    return self._fail(self._path(path).read_bytes()[start:end])


def serve(root: Path, monkeypatch) -> type[FaultyStore]:
  """Serve `root` until the end of the test, with no faults and no waiting."""
  fsspec.register_implementation('faulty', FaultyStore, clobber=True)
  monkeypatch.setattr(FaultyStore, 'root', root)
  monkeypatch.setattr(FaultyStore, 'faults', collections.deque())
  monkeypatch.setattr(FaultyStore, 'reads', [])
  monkeypatch.setattr('data_pipeline.object_store.FIRST_DELAY', 0.0)
  return FaultyStore


def fault(error: Exception):
  """A fault that raises."""

  def fail(content: bytes) -> bytes:
    raise error

  return fail
