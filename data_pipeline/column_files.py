# SPDX-License-Identifier: Apache-2.0
"""Files of columns that are made when they are missing, outdated or damaged."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from acl_jax.runtime import locks
from data_pipeline.columns import Columns, ColumnsError, open_columns, write_columns

Make = Callable[[], tuple[Mapping[str, np.ndarray], Mapping[str, Any]]]


def open_or_make(
  path: Path,
  key: Mapping[str, Any],
  newest: int,
  make: Make,
  is_same: Callable[[Columns], bool] = lambda columns: False,
) -> Columns:
  """Open a file of columns that is current and intact, or else make it.

  One process makes it and the others wait. Where it cannot be written, it is made in
  memory. key: what it is made from. newest: date in ns of the newest file of those.
  make: returns columns and facts. is_same: whether columns that are older than those
  files were made from them, as in a copy of a folder.
  """

  def open_current() -> Columns:
    columns = open_columns(path, key)
    for name in columns:  # all of them will be used
      columns[name]
    if path.stat().st_mtime_ns < newest:
      if not is_same(columns):
        raise ColumnsError(f'{path}: is older than what it was made from')
      with contextlib.suppress(OSError):
        os.utime(path)
    return columns

  try:
    return open_current()
  except ColumnsError as error:
    if path.exists():
      logging.warning('%s; it is made again', error)
  try:
    lock = path.with_name(f'.{path.name}.lock')
    with locks.own_file(lock, str(path), waits=True):
      try:  # another process may have made it
        return open_current()
      except ColumnsError:
        columns, facts = make()
        parts = {name: [column] for name, column in columns.items()}
        write_columns(path, parts, key, facts)
        return open_columns(path, key)
  except OSError as error:
    logging.warning('%s cannot be written (%s); it is made at every start', path, error)
  columns, facts = make()
  return Columns(columns, key, facts)
