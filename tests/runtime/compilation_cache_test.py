# SPDX-License-Identifier: Apache-2.0
import os

import jax
import pytest

from acl_jax.runtime import compilation_cache

NAME = 'jax_compilation_cache_dir'


@pytest.fixture
def current_folder():
  before = jax.config.values[NAME]
  yield lambda: jax.config.values[NAME]
  jax.config.update(NAME, before)


def test_enable_sets_the_folder(current_folder, tmp_path):
  jax.config.update(NAME, None)
  compilation_cache.enable(tmp_path / 'compiled')
  assert current_folder() == str(tmp_path / 'compiled')


def test_the_environment_variable_takes_precedence(current_folder, tmp_path):
  compilation_cache.enable(tmp_path)
  assert current_folder() == os.environ['JAX_COMPILATION_CACHE_DIR']
