# SPDX-License-Identifier: Apache-2.0
"""What XLA has compiled is kept, so that the next start is quick."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def enable(folder: Path) -> None:
  """Keep compiled programs in `folder`, unless JAX_COMPILATION_CACHE_DIR is set."""
  # The variable, if there is one, is in there.
  if not jax.config.values['jax_compilation_cache_dir']:
    jax.config.update('jax_compilation_cache_dir', str(folder))


@contextlib.contextmanager
def disabled() -> Iterator[None]:
  """Within it: what is compiled for devices that are not here cannot be read back."""
  before = jax.config.values['jax_enable_compilation_cache']
  try:
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()  # it asks only once whether there is one
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()
