# SPDX-License-Identifier: Apache-2.0
import pytest

from acl_jax.training.workdir import open_workdir


def test_a_folder_is_made_and_left_empty(tmp_path):
  assert open_workdir(tmp_path / 'runs/a') == tmp_path / 'runs/a'
  assert not list((tmp_path / 'runs/a').iterdir())


def test_what_cannot_be_written_is_said_at_once(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(
    OSError, match='--workdir=.*file/a: cannot be written to \\(Not a'
  ):
    open_workdir(tmp_path / 'file/a')
