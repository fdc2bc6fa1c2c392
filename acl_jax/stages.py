# SPDX-License-Identifier: Apache-2.0
"""The stages of `train`: their batches, losses and order, from the config."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Int

from acl_jax import lora
from acl_jax.batches.ctc import CTCBatchAssembler
from acl_jax.batches.on_policy import PromptedBatchAssembler
from acl_jax.batches.orders import make_order
from acl_jax.batches.responses import ResponseBatchAssembler, open_targets
from acl_jax.config.experiment import TrainConfig
from acl_jax.config.stages import (
  CTCStageConfig,
  ResponseStageConfig,
  StageConfig,
  TranscriptionStageConfig,
)
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.sharding.arrays import make_sharded, shard
from acl_jax.sharding.rules import sharding_rules
from acl_jax.text.frontend import TextFrontend
from acl_jax.training import loop, startup, step
from acl_jax.training.journal import BatchFeed
from acl_jax.training.on_policy import OnPolicy
from acl_jax.training.optimizer import make_optimizer
from data_pipeline.batches import BatchPlan


@functools.cache
def bind_loss(loss: Callable, **arguments: Any) -> Callable:
  """Bind arguments; equal ones return the same object, so that `jit` compiles once."""
  return functools.partial(loss, **arguments)


class Trainer:
  """Trains the stages of one config.

  corpus: index of each utterance's corpus. fingerprints: of the frozen models.
  """

  def __init__(
    self,
    config: TrainConfig,
    workdir: Path,
    ctc_batches: CTCBatchAssembler,
    corpus: Int[np.ndarray, ' n'],
    fingerprints: Mapping[str, Any],
  ):
    self.config, self.workdir, self.ctc_batches = config, workdir, ctc_batches
    self.corpus, self.fingerprints = corpus, fingerprints

  def train_ctc(
    self, stage: CTCStageConfig, model: SpeechLLM, text: TextFrontend
  ) -> SpeechLLM:
    """Train a CTC or a stride adapter on transcripts; the LLM does not run."""
    *_, space = text.tokenizer.encode(' ', after='text')
    loss = bind_loss(
      step.ctc_loss, encoder_trains=self.config.encoder.is_trained, blank_token=space
    )
    order = self._order_audio(stage)
    return self._train_stage('ctc', model, order, self.ctc_batches, loss)

  def train_transcription(
    self, stage: TranscriptionStageConfig, model: SpeechLLM
  ) -> SpeechLLM:
    """Train an attention adapter to write transcripts; the LLM does not run."""
    loss = bind_loss(
      step.transcription_loss,
      encoder_trains=self.config.encoder.is_trained,
      label_smoothing=stage.label_smoothing,
    )
    order = self._order_audio(stage)
    return self._train_stage('transcription', model, order, self.ctc_batches, loss)

  def _order_audio(self, stage: StageConfig) -> Sequence[BatchPlan]:
    """Return the order of batches of a stage that needs no responses."""
    config, lengths = self.config, self.ctc_batches.lengths()[:, None]
    return make_order(
      config.data, stage.frames_per_batch, config.seed, lengths, self.corpus
    )

  def train_response(
    self, stage: ResponseStageConfig, model: SpeechLLM, text: TextFrontend
  ) -> SpeechLLM:
    """Train the model to give the LLM's responses to the transcripts."""
    config, data = self.config, self.config.data
    targets = open_targets(data, self.fingerprints['llama'], text)
    top_k = config.targets.top_k if stage.kl_weight else 0
    row_tokens = None if data.row_frames is None else data.row_tokens
    assembler = ResponseBatchAssembler(
      self.ctc_batches, text, targets, top_k, row_tokens
    )
    context = model.llama.config.max_position_embeddings
    lengths = assembler.fit_context(assembler.lengths(), context)
    order = make_order(
      data, stage.frames_per_batch, config.seed + 1, lengths, self.corpus, row_tokens
    )
    loss = bind_loss(
      step.response_loss, encoder_trains=config.encoder.is_trained, stage=stage
    )
    return self._train_stage(
      'response', model, order, assembler, loss, PromptedBatchAssembler(assembler, text)
    )

  def _train_stage(
    self,
    name: str,
    model: SpeechLLM,
    order: Sequence[BatchPlan],
    assemble: Callable[[BatchPlan], Any],
    loss: Callable,
    prompted: PromptedBatchAssembler | None = None,
  ) -> SpeechLLM:
    """Train a stage to its last step, from its newest intact checkpoint.

    prompted: assembles the batches for `OnPolicy`.
    """
    config, source = self.config, self.ctc_batches.source
    frozen_attributes = lora.frozen_attributes(config, model.adapter)
    filter = step.trainable_filter(config.encoder.trains, frozen_attributes)
    graphdef, trainable, frozen = nnx.split(model, filter, ...)
    trainable = shard(trainable)
    frozen = shard(frozen, sharding_rules(config.llama.sharding))
    speeds = config.encoder.lr_scale, config.encoder.layer_lr_decay
    optimizer = make_optimizer(getattr(config, name), *speeds)
    state = step.TrainState(trainable, make_sharded(optimizer.init, trainable))
    update = functools.partial(
      step.train_step, frozen=frozen, graphdef=graphdef, optimizer=optimizer, loss=loss
    )
    on_policy = None
    if prompted and config.response and config.response.on_policy:
      merge = lambda state: nnx.merge(graphdef, state.trainable, frozen)  # noqa: E731
      on_policy = OnPolicy(config, prompted, merge, order)
    feed = BatchFeed(order, assemble, source.frame_seconds, source.ids, on_policy)
    startup.mark_stage('batches')
    state = loop.run(name, config, self.workdir, state, feed, update, self.fingerprints)
    return nnx.merge(graphdef, state.trainable, frozen)
