# SPDX-License-Identifier: Apache-2.0
"""JAX's persistent compilation cache, which makes the next start faster."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def enable(folder: Path) -> None:
  """Cache compiled programs in `folder`, unless JAX_COMPILATION_CACHE_DIR is set."""
  # JAX has copied the environment variable to its config.
  if not jax.config.values['jax_compilation_cache_dir']:
    jax.config.update('jax_compilation_cache_dir', str(folder))


@contextlib.contextmanager
def disabled() -> Iterator[None]:
  """Disable the cache in a block, as it cannot load programs for absent devices."""
  before = jax.config.values['jax_enable_compilation_cache']
  try:
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()  # JAX remembers whether the cache is in use
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()
