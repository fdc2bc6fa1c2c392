# SPDX-License-Identifier: Apache-2.0
"""The response stage of `train` with a loss on the student's own answers."""

import json

import jax
import pytest

from acl_jax import build, train
from acl_jax.sharding.mesh import make_mesh
from acl_jax.training import on_policy
from tests.exporting.conftest import ATTENTION, TRANSCRIPTION
from tests.tiny_world import load_config
from tests.train_test import LORA, read_losses, train_until

pytestmark = pytest.mark.full  # trains many steps

STRIDE = dict(kind='stride', stack=3, hidden_size=16)
ON_POLICY = dict(
  weight=0.7,
  refresh_every=3,
  max_new_tokens=5,
  sampling=dict(temperature=1.0, top_k=0, top_p=1.0),
)
# Answers are generated before steps 1 and 4.
CHANGES = {
  'adapter': STRIDE,
  'ctc.steps': 0,
  'response.steps': 6,
  'response.save_every': 2,
  'response.peak_lr': 0.3,  # other parameters give other answers
  'response.warmup_steps': 0,
  'response.on_policy': ON_POLICY,
}


@pytest.fixture(scope='module', autouse=True)
def mesh():
  with jax.set_mesh(make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])):
    yield


@pytest.fixture(scope='module')
def uninterrupted(tiny_world, tmp_path_factory):
  """The workdir of a training without interruption."""
  workdir = tmp_path_factory.mktemp('uninterrupted')
  train.train(load_config(tiny_world, **CHANGES), workdir)
  return workdir


def read_answers(workdir, step):
  note = json.loads((workdir / f'response/{step}/note.json').read_text())['note']
  return note['on_policy']['answers']


def check_equal(workdir, expected):
  name = build.ADAPTER_FILE
  assert (workdir / name).read_bytes() == (expected / name).read_bytes()
  assert read_losses(workdir) == read_losses(expected)


def test_the_loss_has_a_part_of_the_students_answers(uninterrupted):
  entries = read_losses(uninterrupted)
  parts = {'response_nll', 'kl', 'on_policy_kl'}
  for entry in entries:
    assert set(entry) == {'stage', 'step', 'loss', 'grad_norm', *parts}
    loss = entry['response_nll'] + 0.5 * entry['kl'] + 0.7 * entry['on_policy_kl']
    assert entry['loss'] == pytest.approx(loss, rel=1e-5)
    assert entry['on_policy_kl'] > 0


def test_checkpoints_have_the_answers_until_the_next_refresh(uninterrupted):
  assert set(read_answers(uninterrupted, 4)) == {'5', '6'}
  assert read_answers(uninterrupted, 6) == {}
  rows = [row for rows in read_answers(uninterrupted, 4).values() for row in rows]
  assert rows and all(1 <= len(text.split()) <= 5 for *_, text in rows)


def record_refreshes(monkeypatch):
  """Return a list that gets the steps of each refresh."""
  refreshes = []
  generate = on_policy.generate

  def record(*arguments):
    answers = generate(*arguments)
    refreshes.append(list(answers))
    return answers

  monkeypatch.setattr(on_policy, 'generate', record)
  return refreshes


@pytest.mark.parametrize('save_every, failure', [(2, 3), (3, 5)])
def test_interruptions_change_nothing(
  tiny_world, uninterrupted, tmp_path, monkeypatch, save_every, failure
):
  """Resumed at step 2, between two refreshes, and at step 3, before one."""
  config = load_config(tiny_world, **CHANGES | {'response.save_every': save_every})
  train_until(config, tmp_path, 'response', failure, KeyboardInterrupt())
  refreshes = record_refreshes(monkeypatch)
  train.train(config, tmp_path)
  check_equal(tmp_path, uninterrupted)
  assert refreshes == [[4, 5, 6]]


def test_a_refresh_of_few_tokens_ends_early(tiny_world, tmp_path, monkeypatch):
  monkeypatch.setattr(on_policy, 'MAX_TOKENS', 1)
  config = load_config(tiny_world, **CHANGES | {'response.steps': 3})
  refreshes = record_refreshes(monkeypatch)
  train.train(config, tmp_path)
  assert refreshes == [[1], [2], [3]]


ENCODER_LORA = {'encoder.trains': 'lora', 'encoder.lora': LORA}
KINDS = {
  'ctc, packed': {
    **ENCODER_LORA,
    'ctc.steps': 0,
    'adapter.letter_layers': 0,
    'data.row_tokens': 90,
    'data.row_frames': 60,
  },
  'attention': {
    'adapter': ATTENTION,
    'ctc': None,
    'transcription': TRANSCRIPTION,
    'encoder.trains': 'full',
    'llama.lora': LORA | {'targets': ['q_proj', 'down_proj']},
  },
}


@pytest.mark.full
@pytest.mark.parametrize('kind', KINDS)
def test_other_adapters_and_encoders_that_train(tiny_world, tmp_path, kind):
  changes = CHANGES | {'response.steps': 3, 'response.on_policy.refresh_every': 2}
  del changes['adapter']
  config = load_config(tiny_world, **changes | KINDS[kind])
  train_until(config, tmp_path / 'resumed', 'response', 3, KeyboardInterrupt())
  train.train(config, tmp_path / 'resumed')
  train.train(config, tmp_path / 'uninterrupted')
  check_equal(tmp_path / 'resumed', tmp_path / 'uninterrupted')
  kl = [entry['on_policy_kl'] for entry in read_losses(tmp_path / 'resumed')]
  assert len(kl) == 3 and min(kl) > 0
