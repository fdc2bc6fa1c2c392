# SPDX-License-Identifier: Apache-2.0
"""Renderings that were read by a person, to compare with."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / 'goldens'


def check(name: str, text: str) -> None:
  """Compares with the golden file of that name."""
  path = FOLDER / name
  if os.environ.get('UPDATE_GOLDENS'):
    FOLDER.mkdir(exist_ok=True)
    path.write_text(text)
  assert path.read_text() == text, (
    f'{path} differs: users would now launch something else; if that is meant, write it'
    ' anew with UPDATE_GOLDENS=1 pytest tests/launch, and read the difference'
  )
