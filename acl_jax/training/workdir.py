# SPDX-License-Identifier: Apache-2.0
"""The folder for all outputs of a training run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from acl_jax.runtime import job_lock
from acl_jax.runtime.files import require_local


@contextlib.contextmanager
def own_workdir(path: Path) -> Iterator[Path]:
  """As `open_workdir`, and hold its lock for the duration of the block.

  ValueError, in all processes of the job, if another program holds it.
  """
  open_workdir(path)
  with job_lock.own_folder(path, '--workdir'):
    yield path


def open_workdir(path: Path) -> Path:
  """Create the folder and return it; OSError at once if it is not writable."""
  probe = require_local(path, '--workdir') / '.writable'
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe.write_bytes(b'x')
    probe.unlink(missing_ok=True)  # another process may have removed it
  except OSError as error:
    raise OSError(
      f'--workdir={path}: cannot be written to ({error.strerror})'
    ) from None
  return path
