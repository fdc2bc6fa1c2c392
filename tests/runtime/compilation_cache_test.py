# SPDX-License-Identifier: Apache-2.0
import os

import jax
import pytest

from acl_jax.runtime import compilation_cache

NAME = 'jax_compilation_cache_dir'


@pytest.fixture
def folder():
  before = jax.config.values[NAME]
  yield lambda: jax.config.values[NAME]
  jax.config.update(NAME, before)


def test_compiled_programs_are_kept_in_the_folder(folder, tmp_path):
  jax.config.update(NAME, None)
  compilation_cache.enable(tmp_path / 'compiled')
  assert folder() == str(tmp_path / 'compiled')


def test_the_variable_of_jax_names_another_folder(folder, tmp_path):
  compilation_cache.enable(tmp_path)
  assert folder() == os.environ['JAX_COMPILATION_CACHE_DIR']
