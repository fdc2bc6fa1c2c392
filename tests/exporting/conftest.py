# SPDX-License-Identifier: Apache-2.0
"""Exported folders of toy size, of every kind, beside the JAX models."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from acl_jax import build
from acl_jax.export import Options, export
from acl_jax.models.ctc import CTCAdapter
from acl_jax.weights.adapter import save_adapter
from tests.tiny_world import load_config

STRIDE = dict(kind='stride', stack=3)
LETTERLESS = {
  'adapter.letter_layers': 0,
  'adapter.letter_hidden_size': 0,
  'adapter.stack': 3,
}
KINDS = ('letters', 'letterless', 'swiglu', 'linear', 'conformer')


class World(NamedTuple):
  """A config, the workdir of its adapter, the folder that was exported of it."""

  config: Any
  workdir: Path
  folder: Path

  def load(self, **how):
    """Model and processor, as users get them."""
    from transformers import AutoModel, AutoProcessor

    how = {'trust_remote_code': True} | how
    model = AutoModel.from_pretrained(self.folder, **how)
    processor = AutoProcessor.from_pretrained(self.folder, trust_remote_code=True)
    return model.eval(), processor

  def ours(self):
    """The JAX model and its text side."""
    model = build.load_model(self.config, str(self.workdir))
    return model, build.load_text_frontend(self.config)


def make(tiny_world: Path, tmp: Path, kind: str, **options) -> World:
  """Nothing in the adapter is at its initial value."""
  config = load_config(tiny_world, **(LETTERLESS if kind == 'letterless' else {}))
  if kind in ('swiglu', 'linear', 'conformer'):
    hidden = 14 if kind == 'swiglu' else None
    with config.unlocked():
      config.adapter = STRIDE | {'hidden_size': hidden}
  if kind == 'conformer':
    from tests import tiny_conformer

    tiny_conformer.oracle().save_pretrained(tmp / 'parakeet')
    config.encoder.kind, config.encoder.path = 'conformer', str(tmp / 'parakeet')
  text, encoder = build.load_text_frontend(config), build.load_encoder(config)
  random = np.random.default_rng(7)
  vocabulary = random.permutation(np.arange(3, 300))[:31]
  sizes = encoder.config.output_size, 24
  piece = text.tokenizer.piece
  adapter = build.new_adapter(config, *sizes, vocabulary.tolist(), piece)
  if isinstance(adapter, CTCAdapter):
    for weight in (adapter.bias, adapter.blank, adapter.norm_mid, adapter.norm_post):
      weight[...] += random.normal(0, 0.5, weight.shape).astype(np.float32)
    adapter.linear_2[...] *= 4  # frames differ in what they say
  workdir, folder = tmp / 'workdir', tmp / f'export_{kind}_{tmp.name}'.replace('-', '_')
  workdir.mkdir()
  save_adapter(workdir / build.ADAPTER_FILE, adapter)
  export(config, folder, str(workdir), Options(**({'llm': 'include'} | options)))
  return World(config, workdir, folder)


@pytest.fixture(scope='module', params=KINDS)
def world(request, tiny_world, tmp_path_factory) -> World:
  """One of each kind, the LLM included."""
  return make(tiny_world, tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope='module')
def letters(tiny_world, tmp_path_factory) -> World:
  """One with a projector that recognises."""
  return make(tiny_world, tmp_path_factory.mktemp('letters'), 'letters')


def sounds(*lengths, seed=0):
  """Noise that changes, of so many samples each."""
  random = np.random.default_rng(seed)
  made = []
  for length in lengths:
    loudness = np.abs(np.sin(np.arange(length) / random.uniform(300, 900)))
    made.append((random.normal(0, 0.2, length) * loudness).astype(np.float32))
  return made


@pytest.fixture(autouse=True)
def no_gradients():
  """Nobody trains here."""
  with torch.no_grad():
    yield
