# SPDX-License-Identifier: Apache-2.0
import pytest

from acl_jax.runtime import locks, program
from acl_jax.training.workdir import open_workdir, own_workdir


def test_one_training_owns_the_folder_until_it_ends(tmp_path):
  workdir = tmp_path / 'run'
  with pytest.raises(program.Preempted), own_workdir(workdir):
    with pytest.raises(ValueError, match=r'is writing here; .* another --workdir'):
      with own_workdir(workdir):
        pass
    raise program.Preempted
  assert not list(workdir.iterdir())
  with pytest.raises(ValueError, match='taken over and removed'):
    with own_workdir(workdir):
      (workdir / locks.NAME).unlink()


def test_the_folder_is_created_and_left_empty(tmp_path):
  assert open_workdir(tmp_path / 'runs/a') == tmp_path / 'runs/a'
  assert not list((tmp_path / 'runs/a').iterdir())


def test_an_unwritable_folder_fails_at_once(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match=f'--workdir={tmp_path}/file/a: .*Not a directory'):
    open_workdir(tmp_path / 'file/a')
