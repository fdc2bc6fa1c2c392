# SPDX-License-Identifier: Apache-2.0
"""Tiny exported models of every kind, with the JAX models that they came from."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from flax import nnx

from acl_jax import build, build_adapter
from acl_jax.export import Options, export
from acl_jax.weights.adapter import save_adapter
from tests.tiny_world import change, load_config

STRIDE = dict(kind='stride', stack=3)
ATTENTION = dict(
  kind='attention',
  path='',
  stack=3,
  sizes=dict(
    d_model=10,
    decoder_layers=2,
    decoder_attention_heads=2,
    decoder_ffn_dim=14,
    max_target_positions=48,
  ),
  beams=3,
)
TRANSCRIPTION = dict(
  steps=0,
  frames_per_batch=80,
  peak_lr=1e-3,
  warmup_steps=0,
  weight_decay=0.0,
  clip_norm=1.0,
  skip_spikes=False,
  log_every=1,
  save_every=1,
  sampled_classes=10,
  label_smoothing=0.0,
)
WITHOUT_LETTERS = {
  'adapter.letter_layers': 0,
  'adapter.letter_hidden_size': 0,
  'adapter.stack': 3,
}
KINDS = ('ctc', 'ctc_without_letters', 'swiglu', 'linear', 'conformer', 'attention')


class ExportedModel(NamedTuple):
  """A config, the workdir of its adapter, and the folder exported from them."""

  config: Any
  workdir: Path
  folder: Path

  def load(self, **options):
    """Load the model and its processor as users do."""
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(self.folder, trust_remote_code=True, **options)
    processor = AutoProcessor.from_pretrained(self.folder, trust_remote_code=True)
    return model.eval(), processor

  def load_jax(self):
    """Load the JAX model and its text frontend."""
    model = build.load_model(self.config, build.find_checkpoint(self.workdir))
    text = build.load_text_frontend(self.config.llama, self.config.template)
    return model, text


def export_tiny(tiny_world: Path, tmp: Path, kind: str, llm='include') -> ExportedModel:
  """Export an adapter of a kind, with no parameter at its initial value."""
  changes = WITHOUT_LETTERS if kind == 'ctc_without_letters' else {}
  config = load_config(tiny_world, **changes)
  if kind in ('swiglu', 'linear', 'conformer'):
    hidden = 14 if kind == 'swiglu' else None
    config = change(config, adapter=STRIDE | {'hidden_size': hidden})
  if kind == 'attention':
    config = change(config, adapter=ATTENTION, transcription=TRANSCRIPTION)
    config = change(config, **{'encoder.trailing_silence': 0.07})
  if kind == 'conformer':
    from tests import tiny_conformer

    tiny_conformer.build_reference().save_pretrained(tmp / 'parakeet')
    conformer = {'encoder.kind': 'conformer', 'encoder.path': str(tmp / 'parakeet')}
    config = change(config, **conformer)
  text = build.load_text_frontend(config.llama, config.template)
  encoder = build.load_encoder(config.encoder)
  adapter = new_adapter(config, text, encoder.config.output_size)
  workdir, folder = tmp / 'workdir', tmp / f'export_{kind}_{tmp.name}'.replace('-', '_')
  workdir.mkdir()
  silence = encoder.config.trailing_silence
  save_adapter(workdir / build.ADAPTER_FILE, adapter, trailing_silence=silence)
  export(config, folder, str(workdir), Options(llm=llm))
  return ExportedModel(config, workdir, folder)


def new_adapter(config, text, encoder_size):
  """Return an adapter that recognises different things in different frames."""
  random = np.random.default_rng(7)
  if config.adapter.kind == 'attention':
    adapter = build_adapter.new_attention_adapter(
      config.adapter, config.seed, encoder_size, 24, text.tokenizer
    )
    for weight in (adapter.gate, adapter.linear, adapter.decoder.layer_norm.bias):
      weight[...] += random.normal(0, 0.5, weight.shape).astype(np.float32)
    for _, weight in nnx.to_flat_state(nnx.state(adapter.decoder)):
      weight[...] *= 9
    adapter.embed_tokens[...] *= 40
    return adapter
  vocabulary = random.permutation(np.arange(3, 300))[:31]
  adapter = build_adapter.new_adapter(
    config.adapter,
    config.seed,
    encoder_size,
    24,
    vocabulary.tolist(),
    text.tokenizer.token_text,
  )
  if adapter.recognises:
    for weight in (adapter.bias, adapter.blank, adapter.norm_mid, adapter.norm_post):
      weight[...] += random.normal(0, 0.5, weight.shape).astype(np.float32)
    adapter.linear_2[...] *= 4  # so that frames are classified differently
  return adapter


@pytest.fixture(scope='session')
def export_kind(tiny_world, tmp_path_factory):
  """Return the exported model of a kind, LLM included; each is exported once."""

  @functools.cache
  def export_kind(kind):
    return export_tiny(tiny_world, tmp_path_factory.mktemp(kind), kind)

  return export_kind


@pytest.fixture(scope='session', params=KINDS)
def exported(request, export_kind) -> ExportedModel:
  """An exported model of every kind; its folder is not to be written to."""
  return export_kind(request.param)


@pytest.fixture(scope='session')
def loaded(exported):
  """Its model and processor, as users load them."""
  return exported.load()


@pytest.fixture(scope='session')
def exported_ctc(export_kind) -> ExportedModel:
  """The exported model with a CTC projector."""
  return export_kind('ctc')


@pytest.fixture(scope='session')
def loaded_ctc(exported_ctc):
  """Its model and processor, as users load them."""
  return exported_ctc.load()


def noise_clips(*lengths, seed=0):
  """Noise of varying loudness; one clip for each length in samples."""
  random = np.random.default_rng(seed)
  clips = []
  for length in lengths:
    loudness = np.abs(np.sin(np.arange(length) / random.uniform(300, 900)))
    clips.append((random.normal(0, 0.2, length) * loudness).astype(np.float32))
  return clips


@pytest.fixture(autouse=True)
def no_gradients():
  """Disable gradients."""
  with torch.no_grad():
    yield
