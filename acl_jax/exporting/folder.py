# SPDX-License-Identifier: Apache-2.0
"""An output folder that is there whole or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path


def check_empty(output: Path) -> None:
  """ValueError if there is something in it."""
  if output.exists() and not output.is_dir():
    raise ValueError(f'{output}: is a file; --output is a folder')
  if output.is_dir() and (found := sorted(output.iterdir())):
    raise ValueError(
      f'{output}: is not empty ({found[0].name} is in it); name a new folder'
    )


def check_space(output: Path, needed: int) -> None:
  """OSError if the disk of `output` has fewer than `needed` bytes left."""
  there = output.absolute()
  while not there.is_dir():
    there = there.parent
  if (free := shutil.disk_usage(there).free) < needed:
    raise OSError(
      f'{output}: the export takes {needed / 1e9:.2f} GB, the disk has'
      f' {free / 1e9:.2f} GB left'
    )


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
  """A folder that takes the place of `output` when the block ends without an error."""
  output = output.absolute()
  unfinished = output.with_name(f'.{output.name}.unfinished')
  shutil.rmtree(unfinished, ignore_errors=True)  # what a killed process left
  unfinished.mkdir(parents=True)
  try:
    yield unfinished
    if output.is_dir():
      output.rmdir()  # it is empty
    unfinished.rename(output)
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
