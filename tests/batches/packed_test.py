# SPDX-License-Identifier: Apache-2.0
"""Utterances that share a row train like utterances in rows of their own."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from acl_jax import build
from acl_jax.batches.ctc import CTCBatchAssembler, CTCLabels
from acl_jax.batches.log_mels import LogMelCorpus
from acl_jax.batches.responses import ResponseBatchAssembler
from acl_jax.config import defaults
from acl_jax.config.parsing import parse
from acl_jax.config.sections import AugmentationConfig
from acl_jax.config.stages import ResponseStageConfig
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.lora import LoRAConfig, apply_lora
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.targets.store import Targets
from acl_jax.training import step
from data_pipeline.batches import BatchPlan
from data_pipeline.records import Dataset
from tests.models.lora_test import randomise
from tests.tiny_source import tokens_of
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
# These utterances have 17, 10, 14, 8 and 12 encoder frames.
PACKED = BatchPlan(
  ((6, 1), (4,), (0, 3)), rows=4, length=30, max_frames=18, max_per_row=2
)
ALONE = BatchPlan(((6,), (1,), (4,), (0,), (3,)), rows=6, length=20, max_frames=20)


@pytest.fixture(scope='module')
def world(tiny_world):
  config = load_config(tiny_world)
  text = build.load_text_frontend(config.llama, config.template)
  rngs = nnx.Rngs(0)
  llama = build.load_frozen_llama(config.llama)
  adapter = StrideAdapter(
    StrideAdapterConfig(STACK, SIZES.hidden_size, 20, llama.config.hidden_size),
    rngs=rngs,
  )
  model = SpeechLLM(Conformer(SIZES, rngs=rngs), adapter, llama)
  source = LogMelCorpus(Dataset(tiny_world / 'prepared'), SIZES, AugmentationConfig())
  tokens = tokens_of(source, text.tokenizer.encode)
  ctc_batches = CTCBatchAssembler(source, CTCLabels([]), tokens, STACK, 1, False)
  targets = Targets(tiny_world / 'targets')
  packed = ResponseBatchAssembler(ctc_batches, text, targets, TOP_K, row_tokens=70)
  alone = ResponseBatchAssembler(ctc_batches, text, targets, TOP_K)
  return model, {'packed': packed(PACKED), 'alone': alone(ALONE)}


@functools.partial(jax.jit, static_argnames='graphdef')
def loss_and_gradient(graphdef, trainable, frozen, batch):
  stage = parse(ResponseStageConfig, defaults.response_stage(kl_weight=0.5).to_dict())

  def loss(trainable):
    model = nnx.merge(graphdef, trainable, frozen)
    return step.response_loss(
      model, batch, jax.random.key(0), encoder_trains=True, stage=stage
    )

  return jax.value_and_grad(loss, has_aux=True)(trainable)


@pytest.mark.parametrize('trains', ['full', 'lora'])
def test_packing_changes_neither_loss_nor_gradient(world, trains):
  model, batches = world
  if trains == 'lora':
    model, settings = nnx.clone(model), LoRAConfig(2, 3.0, 0.0, ('q_proj', 'linear1'))
    randomise(apply_lora(model.encoder, settings, rngs=nnx.Rngs(0)))
  parts = nnx.split(model, step.trainable_filter(trains), ...)
  packed, alone = (loss_and_gradient(*parts, batch) for batch in batches.values())
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5), packed[0], alone[0]
  )
  gradients = [jax.tree.leaves(gradient) for _, gradient in (packed, alone)]
  scale = max(np.abs(leaf).max() for leaf in gradients[1])
  for actual, expected in zip(*gradients, strict=True):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6 * scale)


def test_values_of_padding_change_nothing(world):
  model, batches = world
  parts = nnx.split(model, step.trainable_filter('full'), ...)
  audio, response = batches['packed']
  noise = np.random.default_rng(0).normal(size=audio.frames.shape).astype(np.float32)
  frames = np.where(audio.segment_ids[..., None] > 0, audio.frames, noise)
  tokens = np.where(response.prompt.segment_ids > 0, response.prompt.tokens, 7)
  changed = (
    audio._replace(frames=frames),
    response._replace(prompt=response.prompt._replace(tokens=tokens)),
  )
  expected = loss_and_gradient(*parts, (audio, response))
  actual = loss_and_gradient(*parts, changed)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
