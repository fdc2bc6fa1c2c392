# SPDX-License-Identifier: Apache-2.0
"""What XLA has compiled is kept, so that the next start is quick."""

import jax

from acl_jax import assets


def keep() -> None:
  """From now on, in the cache folder; JAX_COMPILATION_CACHE_DIR names another."""
  # The variable, if there is one, is in there.
  if not jax.config.values['jax_compilation_cache_dir']:
    folder = assets.cache_folder() / 'compiled'
    jax.config.update('jax_compilation_cache_dir', str(folder))
