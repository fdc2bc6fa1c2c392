# SPDX-License-Identifier: Apache-2.0
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.training.checkpoint import Checkpoints
from acl_jax.training.checksums import DamagedError, read_manifest


def new_state(seed):
  params = nnx.state(
    StrideAdapter(StrideAdapterConfig(2, 3, 4, 5), rngs=nnx.Rngs(seed))
  )
  return {'params': params, 'count': jnp.int32(seed), 'half': jnp.ones(7, jnp.bfloat16)}


@pytest.fixture
def checkpoints(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'stage')
  yield checkpoints
  checkpoints.close()


def restore(tmp_path, seed=99):
  checkpoints = Checkpoints(tmp_path / 'stage')
  restored = checkpoints.restore(new_state(seed))
  checkpoints.close()
  return restored


def assert_equal(restored, step):
  assert restored is not None and restored.step == step
  jax.tree.map(np.testing.assert_array_equal, restored.state, new_state(step))
  dtypes = [leaf.dtype for leaf in jax.tree.leaves(restored.state)]
  assert dtypes == [leaf.dtype for leaf in jax.tree.leaves(new_state(step))]


def files(tmp_path, step):
  """The files of a checkpoint; the largest comes first and has the parameters."""
  paths = [p for p in (tmp_path / f'stage/{step}').rglob('*') if p.is_file()]
  return sorted(paths, key=lambda path: -path.stat().st_size)


def save(checkpoints, *steps):
  for step in steps:
    checkpoints.save_and_wait(step, new_state(step), {'note': step})


def test_a_checkpoint_is_restored_as_it_was_saved(checkpoints, tmp_path):
  save(checkpoints, 3)
  restored = restore(tmp_path)
  assert_equal(restored, 3)
  assert restored.metadata == {'note': 3}


def test_an_empty_folder_restores_nothing(checkpoints):
  assert checkpoints.restore(new_state(0)) is None


def test_the_newest_two_are_kept(checkpoints, tmp_path):
  save(checkpoints, 3, 5, 9)
  assert {path.name for path in (tmp_path / 'stage').iterdir()} == {'5', '9'}
  assert_equal(restore(tmp_path), 9)


def test_the_state_may_be_donated_at_once(tmp_path):
  """It is written while later steps already use its memory."""
  step = jax.jit(lambda x: {'w': x['w'] + 1}, donate_argnums=0)
  state = {'w': jnp.zeros(100_003)}
  checkpoints = Checkpoints(tmp_path / 'stage')
  for number in range(1, 8):
    state = step(state)
    checkpoints.save(number, state, {})
  for _ in range(20):
    state = step(state)
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path / 'stage')
  restored = checkpoints.restore({'w': jnp.ones(100_003)})
  checkpoints.close()
  np.testing.assert_array_equal(restored.state['w'], np.full(100_003, 7, np.float32))


def test_leftovers_of_a_killed_save_are_deleted(checkpoints, tmp_path):
  save(checkpoints, 3)
  shutil.copytree(tmp_path / 'stage/3', tmp_path / 'stage/5.orbax-checkpoint-tmp')
  assert_equal(restore(tmp_path), 3)
  assert [path.name for path in (tmp_path / 'stage').iterdir()] == ['3']


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def damage(tmp_path, kind):
  manifest = tmp_path / 'stage/5/note.json'
  match kind:
    case 'every file':
      for path in files(tmp_path, 5):
        flip_a_bit(path)
    case 'one bit':
      flip_a_bit(files(tmp_path, 5)[0])
    case 'missing file':
      files(tmp_path, 5)[0].unlink()
    case 'truncated file':
      path = files(tmp_path, 5)[0]
      path.write_bytes(path.read_bytes()[:-1])
    case 'no manifest':
      manifest.unlink()
    case 'truncated manifest':
      manifest.write_text('{"x": ')
    case 'changed manifest':
      manifest.write_text(manifest.read_text().replace('"note": 5', '"note": 6'))


@pytest.mark.parametrize(
  'kind, warning',
  [
    ('one bit', 'has changed since it was saved'),
    ('every file', ''),
    ('missing file', 'is missing'),
    ('truncated file', 'has changed since it was saved'),
    ('no manifest', 'note.json is missing'),
    ('truncated manifest', 'note.json cannot be read'),
    ('changed manifest', 'note.json has changed since it was saved'),
  ],
)
def test_a_damaged_checkpoint_is_moved_aside(
  checkpoints, tmp_path, kind, warning, caplog
):
  save(checkpoints, 3, 5)
  damage(tmp_path, kind)
  with caplog.at_level(logging.WARNING, 'absl'):
    restored = restore(tmp_path)
  assert_equal(restored, 3)
  assert f'checkpoint 5 of {tmp_path}/stage' in caplog.text and warning in caplog.text
  assert not (tmp_path / 'stage/5').exists()
  assert len(list((tmp_path / 'stage-broken').iterdir())) == 1


def test_a_flipped_bit_in_any_file_is_detected_or_harmless(tmp_path):
  """No flipped bit changes a restored value."""
  checkpoints = Checkpoints(tmp_path / 'stage')
  save(checkpoints, 5)
  checkpoints.close()
  for path in files(tmp_path, 5):
    content = path.read_bytes()
    flip_a_bit(path)
    try:
      read_manifest(tmp_path / 'stage/5')
    except DamagedError:
      pass
    else:
      assert path.name in ('commit_success.txt', '_CHECKPOINT_METADATA')
      assert_equal(restore(tmp_path), 5)
    path.write_bytes(content)


def test_the_step_of_a_damaged_checkpoint_can_be_saved_again(checkpoints, tmp_path):
  save(checkpoints, 3, 5)
  flip_a_bit(files(tmp_path, 5)[0])
  restarted = Checkpoints(tmp_path / 'stage')
  assert_equal(restarted.restore(new_state(0)), 3)
  save(restarted, 5)
  restarted.close()
  assert_equal(restore(tmp_path), 5)


def test_if_all_are_damaged_training_starts_afresh(checkpoints, tmp_path):
  save(checkpoints, 3, 5)
  for step in (3, 5):
    flip_a_bit(files(tmp_path, step)[0])
  assert restore(tmp_path) is None


@pytest.mark.parametrize(
  'name, change, shapes',
  [
    ('half', jnp.ones(8, jnp.bfloat16), r'shape \(7,\) .*shape \(8,\)'),
    ('more', jnp.ones(5), r'no such array .*shape \(5,\)'),
    ('count', None, r'shape \(\) .*no such array'),
  ],
)
def test_a_checkpoint_of_another_model_is_rejected(
  checkpoints, tmp_path, name, change, shapes
):
  save(checkpoints, 3)
  other = new_state(0) | {name: change}
  if change is None:
    del other[name]
  with pytest.raises(ValueError, match=f'{tmp_path}/stage/3: .* {name} .*{shapes}'):
    checkpoints.restore(other)
