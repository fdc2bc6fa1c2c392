# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, however many write them at once."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


def temporary(path: Path) -> Path:
  """A name beside `path` that nobody else uses."""
  return path.with_name(f'{path.name}.{uuid.uuid4().hex}.tmp')


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
  """A text file that takes the place of `path` when the block ends without an error."""
  new = temporary(path)
  try:
    with new.open('w', encoding='utf-8', newline='\n') as file:
      yield file
    new.replace(path)
  finally:
    new.unlink(missing_ok=True)
