# SPDX-License-Identifier: Apache-2.0
"""Output folders that appear complete or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from acl_jax.runtime import locks


@contextlib.contextmanager
def own_output(output: Path) -> Iterator[None]:
  """Hold the lock of a folder that does not exist yet; it is beside the folder.

  ValueError if another program holds it.
  """
  output = output.absolute()
  output.parent.mkdir(parents=True, exist_ok=True)
  with locks.own_file(output.with_name(f'.{output.name}.lock'), str(output)):
    yield


def check_empty(output: Path) -> None:
  """Raise ValueError if `output` is a file or a folder that is not empty."""
  if output.exists() and not output.is_dir():
    raise ValueError(f'{output}: is a file; --output is a folder')
  if output.is_dir() and (entries := sorted(output.iterdir())):
    raise ValueError(
      f'{output}: is not empty (it contains {entries[0].name}); name a new folder'
    )


def check_disk_space(output: Path, needed: int) -> None:
  """Raise OSError if the disk of `output` has fewer than `needed` bytes free."""
  existing = output.absolute()
  while not existing.is_dir():
    existing = existing.parent
  if (free := shutil.disk_usage(existing).free) < needed:
    raise OSError(
      f'{output}: the export needs {needed / 1e9:.2f} GB; the disk has'
      f' {free / 1e9:.2f} GB free'
    )


@contextlib.contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
  """Yield a folder that is renamed to `output` when the block ends without an error."""
  output = output.absolute()
  unfinished = output.with_name(f'.{output.name}.unfinished')
  shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
  unfinished.mkdir(parents=True)
  try:
    yield unfinished
    if output.is_dir():
      output.rmdir()  # empty: see `check_empty`
    unfinished.rename(output)
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
