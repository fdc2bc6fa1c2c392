# SPDX-License-Identifier: Apache-2.0
"""Packed = alone, through both towers."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from acl_jax import build
from acl_jax.batches.ctc import CTCBatches, CTCLabels
from acl_jax.batches.log_mels import AugmentationConfig, LogMelCorpus
from acl_jax.batches.responses import ResponseBatches
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.targets.store import Targets
from acl_jax.training import step
from data_pipeline.batches import BatchPlan
from data_pipeline.records import Dataset
from tests.tiny_world import TOP_K, load_config

SIZES = ConformerConfig(
  hidden_size=16,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=24,
  conv_kernel_size=3,
  subsampling_conv_channels=8,
  subsampling_factor=4,
)
STACK = 3
# Encoder frames of these: 17, 10, 14, 8, 12.
PACKED = BatchPlan(((6, 1), (4,), (0, 3)), rows=4, length=30, longest=18, per_row=2)
ALONE = BatchPlan(((6,), (1,), (4,), (0,), (3,)), rows=6, length=20, longest=20)


@pytest.fixture(scope='module')
def world(tiny_world):
  config = load_config(tiny_world)
  text = build.load_text_frontend(config)
  rngs = nnx.Rngs(0)
  llama = build.load_frozen_llama(config)
  adapter = StrideAdapter(
    StrideAdapterConfig(STACK, SIZES.hidden_size, 20, llama.config.hidden_size),
    rngs=rngs,
  )
  model = SpeechLLM(Conformer(SIZES, rngs=rngs), adapter, llama)
  source = LogMelCorpus(Dataset(tiny_world / 'prepared'), SIZES, AugmentationConfig())
  sounds = CTCBatches(source, CTCLabels([]), text.tokenizer.encode, STACK, 1, False)
  targets = Targets(tiny_world / 'targets')
  batches = {
    'packed': ResponseBatches(sounds, text, targets, TOP_K, row_tokens=70)(PACKED),
    'alone': ResponseBatches(sounds, text, targets, TOP_K)(ALONE),
  }
  return model, batches


@functools.partial(jax.jit, static_argnames='graphdef')
def loss_and_gradient(graphdef, trainable, frozen, batch):
  how = step.ResponseLossConfig(
    kl_weight=0.5, kl_temperature=1.0, ctc_weight=0.0, remat=None
  )

  def loss(trainable):
    model = nnx.merge(graphdef, trainable, frozen)
    return step.response_loss(
      model, batch, jax.random.key(0), encoder_trains=True, how=how
    )

  return jax.value_and_grad(loss, has_aux=True)(trainable)


def test_packed_recordings_lose_and_teach_what_they_do_alone(world):
  model, batches = world
  parts = nnx.split(model, step.trainable_filter(True), ...)
  packed, alone = (loss_and_gradient(*parts, batch) for batch in batches.values())
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5), packed[0], alone[0]
  )
  gradients = [jax.tree.leaves(found[1]) for found in (packed, alone)]
  scale = max(np.abs(leaf).max() for leaf in gradients[1])
  for ours, theirs in zip(*gradients, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * scale)


def test_what_is_padding_may_be_anything(world):
  model, batches = world
  parts = nnx.split(model, step.trainable_filter(True), ...)
  sound, response = batches['packed']
  noise = np.random.default_rng(0).normal(size=sound.frames.shape).astype(np.float32)
  frames = np.where(sound.segment_ids[..., None] > 0, sound.frames, noise)
  tokens = np.where(response.prompt.segment_ids > 0, response.prompt.tokens, 7)
  dirty = (
    sound._replace(frames=frames),
    response._replace(prompt=response.prompt._replace(tokens=tokens)),
  )
  clean = loss_and_gradient(*parts, (sound, response))
  jax.tree.map(np.testing.assert_array_equal, clean, loss_and_gradient(*parts, dirty))
