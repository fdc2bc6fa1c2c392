# SPDX-License-Identifier: Apache-2.0
import hashlib
import os

import jax
import numpy as np
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


def test_all_processes_on_cpus_have_one_key(monkeypatch):
  def digest(process: int) -> str:
    monkeypatch.setattr(jax, 'process_index', lambda: process)
    hash_obj = hashlib.sha256()
    compilation_cache._hash_devices(hash_obj, np.asarray(jax.devices()))
    return hash_obj.hexdigest()

  single = digest(0)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  assert digest(0) == digest(1) != single
  before = digest(0)
  monkeypatch.setattr(compilation_cache, '_describe_cpu', lambda: 'another CPU')
  assert digest(0) != before
