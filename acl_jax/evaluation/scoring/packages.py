# SPDX-License-Identifier: Apache-2.0
"""Optional packages, imported when a score needs them."""

import importlib
import importlib.util
from typing import Any


def require(name: str, package: str) -> Any:
  """Import module `name`; ValueError says how to install its `package`."""
  try:
    return importlib.import_module(name)
  except ImportError:
    raise ValueError(
      f'{package} is not installed, which this task is scored with. Run '
      "pip install 'acl_jax[evaluation]'"
    ) from None


def is_installed(name: str) -> bool:
  """Return whether module `name` could be imported."""
  return importlib.util.find_spec(name) is not None
