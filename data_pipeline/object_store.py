# SPDX-License-Identifier: Apache-2.0
"""Files at URLs of object stores, such as `gs://bucket/prepared`, read by fsspec.

Reads are retried with exponential backoff, because a store of this size always has
requests that fail. Only what another attempt cannot change is raised at once: a missing
file, or credentials that are refused.
"""

import dataclasses
import fnmatch
import functools
import hashlib
import os
import pathlib
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import fsspec
from absl import logging
from fsspec.asyn import AsyncFileSystem

from acl_jax.runtime.files import replace_atomically

ATTEMPTS = 8
ATTEMPT_SECONDS = 60.0  # limit for an attempt, which may read many ranges
FIRST_DELAY, MAX_DELAY = 0.5, 30.0  # s between attempts
COPY_BLOCK_BYTES = 32 << 20
MAX_TEXT_BYTES = 64 << 20
EXTRAS = {'gs': 'gcs', 'gcs': 'gcs', 's3': 's3', 's3a': 's3'}  # of this package

_URL = re.compile(r'([a-z][a-z0-9]+)://[^:]*')
_T = TypeVar('_T')


class StoreError(OSError):
  """An object store that cannot be read: an outage, credentials, a changed object."""


@dataclasses.dataclass(frozen=True, order=True)
class RemotePath:
  """What `pathlib.Path` is to a file: the methods that prepared folders need.

  size: in bytes, where `glob` has found it.
  """

  url: str
  size: int = dataclasses.field(default=0, compare=False)

  def __str__(self) -> str:
    return self.url

  def __truediv__(self, name: str) -> 'RemotePath':
    return RemotePath(f'{self.url}/{name}')

  @property
  def name(self) -> str:
    """The part after the last slash."""
    return self.url.rpartition('/')[2]

  def glob(self, pattern: str) -> Iterator['RemotePath']:
    """Yield the files of this folder whose names match, with their sizes."""
    system, path = _locate(self.url)

    def list_folder() -> list[dict[str, Any]]:
      system.invalidate_cache()  # or a retry would see what the last attempt saw
      return system.ls(path, detail=True, **_limit(system))

    for entry in retry(self.url, list_folder):
      name = entry['name'].rstrip('/').rpartition('/')[2]
      if entry['type'] == 'file' and fnmatch.fnmatchcase(name, pattern):
        yield RemotePath(f'{self.url}/{name}', int(entry['size'] or 0))

  def read_text(self) -> str:
    """Read a small UTF-8 file; ValueError above `MAX_TEXT_BYTES`."""
    [content] = read_ranges([Range(self, 0, self._stat()[0])], MAX_TEXT_BYTES)
    return content.decode()

  def _stat(self) -> tuple[int, str]:
    """Return the size and a key that changes with the content."""
    system, path = _locate(self.url)

    def stat() -> dict[str, Any]:
      system.invalidate_cache()
      return system.info(path, **_limit(system))

    info = retry(self.url, stat)
    content = repr(sorted(info.items(), key=str)).encode()
    return int(info['size']), hashlib.sha256(content).hexdigest()


class Range(NamedTuple):
  """Bytes `start` to `stop` of a file."""

  path: RemotePath
  start: int
  stop: int


class _FailedRead(Exception):
  """The first failure of many reads: its URL and reason."""


def as_path(folder: str | pathlib.Path | RemotePath) -> pathlib.Path | RemotePath:
  """Return a path of this machine or, of `scheme://…`, of an object store."""
  if isinstance(folder, RemotePath):
    return folder
  text = os.fspath(folder)
  if not _URL.match(text):
    return pathlib.Path(text)
  if not _URL.fullmatch(text):
    raise ValueError(f'{text}: is not a URL such as gs://bucket/folder')
  return RemotePath(text.rstrip('/'))


@functools.lru_cache(maxsize=4_096)
def _locate(url: str) -> tuple[Any, str]:
  """Return fsspec's file system and the path in it; ValueError if it has none."""
  scheme = url.partition(':')[0]
  try:
    system, path = fsspec.core.url_to_fs(url)
  except ImportError:
    extra = EXTRAS.get(scheme)
    package = f"'acl_jax[{extra}]'" if extra else f"fsspec's package for {scheme}://"
    raise ValueError(f'{url}: needs a package: pip install {package}') from None
  except ValueError as error:
    raise ValueError(f'{url}: cannot be opened ({error})') from None
  return system, path


def read_ranges(ranges: Sequence[Range], max_bytes: int = 1 << 30) -> list[bytes]:
  """Read ranges of files in one store at once; only those that fail are read again.

  Raises StoreError, FileNotFoundError, or ValueError for more than `max_bytes`.
  """
  if not ranges:
    return []
  if (total := sum(stop - start for _, start, stop in ranges)) > max_bytes:
    raise ValueError(f'{ranges[0].path}: {total} bytes to read; limit {max_bytes}')
  contents: dict[Range, bytes] = {each: b'' for each in ranges if each[1] == each[2]}
  system, _ = _locate(ranges[0].path.url)

  def read_missing() -> None:
    missing = [each for each in dict.fromkeys(ranges) if each not in contents]
    failure = None
    for each, content in zip(missing, _cat_ranges(system, missing), strict=True):
      if isinstance(content, bytes) and len(content) == each.stop - each.start:
        contents[each] = content
        continue
      if isinstance(content, bytes):
        content = OSError(f'{len(content)} bytes of {each.stop - each.start}')
      failure = failure or _FailedRead(each.path.url, content)
    if failure:
      raise failure

  retry(ranges[0].path.url, read_missing)
  return [contents[each] for each in ranges]


def _cat_ranges(system: Any, ranges: Sequence[Range]) -> list[Any]:
  """Return the bytes of each range, or the exception in their place."""
  if not ranges:
    return []
  paths = [_locate(each.path.url)[1] for each in ranges]
  starts, stops = ([each[i] for each in ranges] for i in (1, 2))
  return system.cat_ranges(paths, starts, stops, on_error='return', **_limit(system))


def _limit(system: Any) -> dict[str, float]:
  """Return fsspec's limit of a call; file systems that block have none of this kind."""
  return {'timeout': ATTEMPT_SECONDS} if isinstance(system, AsyncFileSystem) else {}


def retry(url: str, call: Callable[[], _T]) -> _T:
  """Return the result of `call`, which is repeated while the store fails."""
  begin = time.monotonic()
  for attempt in range(1, ATTEMPTS + 1):
    try:
      return call()
    except Exception as error:
      where, reason = error.args if isinstance(error, _FailedRead) else (url, error)
    _raise_if_final(where, reason)
    if attempt < ATTEMPTS:
      delay = min(MAX_DELAY, FIRST_DELAY * 2 ** (attempt - 1))
      # Half of it random, so that hosts which failed together do not return together.
      delay *= random.uniform(0.5, 1)
      logging.info('%s: %s; attempt %d', where, _describe(reason), attempt + 1)
      time.sleep(delay)
  raise StoreError(
    f'{where}: cannot be read ({_describe(reason)}), tried {ATTEMPTS} times in'
    f' {time.monotonic() - begin:.0f} s; check the network and the store, and run again'
  )


def _raise_if_final(url: str, reason: BaseException) -> None:
  """Raise what another attempt cannot change."""
  status = getattr(reason, 'code', None) or getattr(reason, 'status', None)
  text = str(reason)
  if isinstance(reason, FileNotFoundError) or status == 404:
    raise FileNotFoundError(f'{url}: not found') from None
  is_refused = isinstance(reason, PermissionError) or status in (401, 403)
  # gcsfs raises a plain OSError for 403; both clients have errors of this name.
  is_refused |= text.startswith('Forbidden') or 'Credential' in type(reason).__name__
  if is_refused:
    raise StoreError(
      f'{url}: access is refused ({_describe(reason)}); check the credentials of this'
      ' machine and that they may read the bucket'
    ) from None
  if isinstance(reason, (ValueError, TypeError, NotImplementedError)):
    raise ValueError(f'{url}: cannot be read ({_describe(reason)})') from None


def _describe(reason: BaseException) -> str:
  """Return an exception as part of a line."""
  return ' '.join(f'{type(reason).__name__}: {reason}'.split())[:200].rstrip(': ')


def local_copy(path: pathlib.Path | RemotePath) -> pathlib.Path:
  """Return the path of a file on this machine; of a remote one, that of a copy.

  The copy is in the cache folder, where it replaces that of an older version.
  """
  if isinstance(path, pathlib.Path):
    return path
  size, key = path._stat()
  parent = pathlib.Path(path.url.rpartition('/')[0]).name
  digest = hashlib.sha256(path.url.encode()).hexdigest()[:16]
  folder = _cache_folder() / f'{parent}-{digest}'
  copy = folder / f'{key[:16]}-{path.name}'
  if copy.exists() and copy.stat().st_size == size:
    return copy
  folder.mkdir(parents=True, exist_ok=True)
  with replace_atomically(copy) as temporary, temporary.open('wb') as file:
    for start in range(0, size, COPY_BLOCK_BYTES):
      block = Range(path, start, min(size, start + COPY_BLOCK_BYTES))
      file.write(read_ranges([block])[0])
  for old in folder.glob(f'*-{path.name}'):
    if old != copy:
      old.unlink(missing_ok=True)
  return copy


def _cache_folder() -> pathlib.Path:
  """Return the folder of copies: in $ACL_JAX_CACHE, or in the user's cache folder."""
  default = pathlib.Path.home() / '.cache' / 'acl_jax'
  return pathlib.Path(os.environ.get('ACL_JAX_CACHE', default)).expanduser() / 'remote'
