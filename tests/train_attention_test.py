# SPDX-License-Identifier: Apache-2.0
"""The program `train` with an attention adapter."""

import jax
import numpy as np
import pytest

from acl_jax import build, train
from acl_jax.sharding.mesh import make_mesh
from acl_jax.weights.adapter import load_adapter
from tests.exporting.conftest import ATTENTION, TRANSCRIPTION
from tests.tiny_world import load_config
from tests.train_test import read_losses, train_until

pytestmark = pytest.mark.full  # compiles many training steps

STEPS = 5
CHANGES = {
  'adapter': ATTENTION,
  'ctc': None,
  'transcription': TRANSCRIPTION | {'steps': STEPS, 'save_every': 2, 'peak_lr': 1e-2},
  'response.steps': 4,
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


def test_both_stages_run(uninterrupted):
  entries = read_losses(uninterrupted)
  steps = [(entry['stage'], entry['step']) for entry in entries]
  assert steps == [
    *(('transcription', step) for step in range(1, STEPS + 1)),
    *(('response', step) for step in range(1, 5)),
  ]
  assert set(entries[0]) == {'stage', 'step', 'loss', 'grad_norm', 'transcription'}
  assert set(entries[-1]) == {*entries[0], 'response_nll', 'kl'}
  assert entries[STEPS - 1]['loss'] < entries[0]['loss']


def test_interruptions_change_nothing(tiny_world, uninterrupted, tmp_path):
  config = load_config(tiny_world, **CHANGES)
  train_until(config, tmp_path, 'transcription', 3, KeyboardInterrupt())
  train_until(config, tmp_path, 'response', 4, OSError('full'))
  train.train(config, tmp_path)
  name = build.ADAPTER_FILE
  assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes()
  assert read_losses(tmp_path) == read_losses(uninterrupted)


def test_it_recognises_every_token_but_control_tokens(tiny_world, uninterrupted):
  config = load_config(tiny_world, **CHANGES)
  text = build.load_text_frontend(config.llama, config.template)
  tokens = load_adapter(uninterrupted / build.ADAPTER_FILE).token_ids()
  assert not set(tokens) & set(text.tokenizer.control_tokens.values())
  sentence = 'oh no, stop now'
  assert set(text.tokenizer.encode(sentence)) <= set(tokens)
  assert len(tokens) == len(np.unique(tokens))


def test_an_attention_adapter_needs_its_stage(tiny_world):
  with pytest.raises(ValueError, match=r'config\.transcription is None; an attention'):
    load_config(tiny_world, adapter=ATTENTION)


@pytest.mark.parametrize('path, sizes', [('', None), ('x', ATTENTION['sizes'])])
def test_a_decoder_is_either_loaded_or_new(tiny_world, path, sizes):
  adapter = ATTENTION | {'path': path, 'sizes': sizes}
  with pytest.raises(ValueError, match=r'config\.adapter: exactly one of path and'):
    load_config(tiny_world, **CHANGES | {'adapter': adapter})
