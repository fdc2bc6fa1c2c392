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


def test_compilations_are_kept_beside_the_models(folder, tmp_path, monkeypatch):
  monkeypatch.setenv('ACL_JAX_CACHE', str(tmp_path))
  jax.config.update(NAME, None)
  compilation_cache.keep()
  assert folder() == str(tmp_path / 'compiled')


def test_the_variable_of_jax_names_another_folder(folder):
  compilation_cache.keep()
  assert folder() == os.environ['JAX_COMPILATION_CACHE_DIR']
