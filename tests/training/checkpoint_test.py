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
  made = Checkpoints(tmp_path / 'stage')
  yield made
  made.close()


def restored(tmp_path, seed=99):
  again = Checkpoints(tmp_path / 'stage')
  found = again.restore(new_state(seed))
  again.close()
  return found


def assert_equal(found, step):
  assert found is not None and found.step == step
  jax.tree.map(np.testing.assert_array_equal, found.state, new_state(step))
  kinds = [leaf.dtype for leaf in jax.tree.leaves(found.state)]
  assert kinds == [leaf.dtype for leaf in jax.tree.leaves(new_state(step))]


def files(tmp_path, step):
  """Those of a checkpoint, the largest first: it holds the parameters."""
  found = [p for p in (tmp_path / f'stage/{step}').rglob('*') if p.is_file()]
  return sorted(found, key=lambda path: -path.stat().st_size)


def save(checkpoints, *steps):
  for step in steps:
    checkpoints.finish(step, new_state(step), {'note': step})


def test_what_is_restored_is_what_was_saved(checkpoints, tmp_path):
  save(checkpoints, 3)
  found = restored(tmp_path)
  assert_equal(found, 3)
  assert found.note == {'note': 3}


def test_nothing_to_restore(checkpoints):
  assert checkpoints.restore(new_state(0)) is None


def test_the_last_two_are_kept(checkpoints, tmp_path):
  save(checkpoints, 3, 5, 9)
  assert {path.name for path in (tmp_path / 'stage').iterdir()} == {'5', '9'}
  assert_equal(restored(tmp_path), 9)


def test_what_is_saved_may_be_given_away_at_once(tmp_path):
  """It is written while the steps after it already use its memory."""
  step = jax.jit(lambda x: {'w': x['w'] + 1}, donate_argnums=0)
  state = {'w': jnp.zeros(100_003)}
  checkpoints = Checkpoints(tmp_path / 'stage')
  for number in range(1, 8):
    state = step(state)
    checkpoints.save(number, state, {})
  for _ in range(20):
    state = step(state)
  checkpoints.close()
  again = Checkpoints(tmp_path / 'stage')
  found = again.restore({'w': jnp.ones(100_003)})
  again.close()
  np.testing.assert_array_equal(found.state['w'], np.full(100_003, 7, np.float32))


def test_what_a_killed_save_left_is_deleted(checkpoints, tmp_path):
  save(checkpoints, 3)
  shutil.copytree(tmp_path / 'stage/3', tmp_path / 'stage/5.orbax-checkpoint-tmp')
  assert_equal(restored(tmp_path), 3)
  assert [path.name for path in (tmp_path / 'stage').iterdir()] == ['3']


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def damage(tmp_path, how):
  note = tmp_path / 'stage/5/note.json'
  match how:
    case 'every file':
      for path in files(tmp_path, 5):
        flip_a_bit(path)
    case 'a bit':
      flip_a_bit(files(tmp_path, 5)[0])
    case 'a missing file':
      files(tmp_path, 5)[0].unlink()
    case 'a cut file':
      path = files(tmp_path, 5)[0]
      path.write_bytes(path.read_bytes()[:-1])
    case 'no note':
      note.unlink()
    case 'half a note':
      note.write_text('{"x": ')
    case 'another note':
      note.write_text(note.read_text().replace('"note": 5', '"note": 6'))


@pytest.mark.parametrize(
  'how, warning',
  [
    ('a bit', 'has changed since it was saved'),
    ('every file', ''),
    ('a missing file', 'is missing'),
    ('a cut file', 'has changed since it was saved'),
    ('no note', 'note.json is missing'),
    ('half a note', 'note.json cannot be read'),
    ('another note', 'note.json has changed since it was saved'),
  ],
)
def test_a_damaged_checkpoint_is_set_aside(checkpoints, tmp_path, how, warning, caplog):
  save(checkpoints, 3, 5)
  damage(tmp_path, how)
  with caplog.at_level(logging.WARNING, 'absl'):
    found = restored(tmp_path)
  assert_equal(found, 3)
  assert f'checkpoint 5 of {tmp_path}/stage' in caplog.text and warning in caplog.text
  assert not (tmp_path / 'stage/5').exists()
  assert len(list((tmp_path / 'stage-broken').iterdir())) == 1


def test_a_flipped_bit_anywhere_is_noticed_or_does_no_harm(tmp_path):
  """In each file in turn: never are other values restored."""
  checkpoints = Checkpoints(tmp_path / 'stage')
  save(checkpoints, 5)
  checkpoints.close()
  for path in files(tmp_path, 5):
    whole = path.read_bytes()
    flip_a_bit(path)
    try:
      read_manifest(tmp_path / 'stage/5')
    except DamagedError:
      pass
    else:
      assert path.name in ('commit_success.txt', '_CHECKPOINT_METADATA')
      assert_equal(restored(tmp_path), 5)
    path.write_bytes(whole)


def test_after_a_damaged_checkpoint_its_step_is_saved_again(checkpoints, tmp_path):
  save(checkpoints, 3, 5)
  flip_a_bit(files(tmp_path, 5)[0])
  again = Checkpoints(tmp_path / 'stage')
  assert_equal(again.restore(new_state(0)), 3)
  save(again, 5)
  again.close()
  assert_equal(restored(tmp_path), 5)


def test_all_damaged_is_a_fresh_start(checkpoints, tmp_path):
  save(checkpoints, 3, 5)
  for step in (3, 5):
    flip_a_bit(files(tmp_path, step)[0])
  assert restored(tmp_path) is None


@pytest.mark.parametrize(
  'name, change, complaint',
  [
    (
      'half',
      jnp.ones(8, jnp.bfloat16),
      r'half has shape \(7,\) in it and shape \(8,\)',
    ),
    ('more', jnp.ones(5), r'more has no such array in it and shape \(5,\)'),
    ('count', None, r'count has shape \(\) in it and no such array'),
  ],
)
def test_a_checkpoint_of_another_model_is_refused(
  checkpoints, tmp_path, name, change, complaint
):
  save(checkpoints, 3)
  other = new_state(0) | {name: change}
  if change is None:
    del other[name]
  with pytest.raises(ValueError, match=f'{tmp_path}/stage/3.*{complaint}'):
    checkpoints.restore(other)
