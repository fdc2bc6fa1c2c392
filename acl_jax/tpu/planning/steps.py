# SPDX-License-Identifier: Apache-2.0
"""Each program's step with the shapes of its arguments, ready to be lowered.

With a mesh it is lowered for the mesh's devices, to be compiled; without one, for the
CPU, to count its operations.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from acl_jax import lora
from acl_jax.config.experiment import PretrainConfig, TrainConfig
from acl_jax.generation.engine import CACHE_LENGTH_STEP, PREFILL_ROWS
from acl_jax.generation.prefill_queue import empty_queue
from acl_jax.generation.slots import DecodeRules, decode_steps, empty_state
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.models.layers import unroll_layers
from acl_jax.runtime.rounding import round_up
from acl_jax.sharding import rules as sharding
from acl_jax.tpu.planning import shapes
from acl_jax.tpu.planning.shardings import (
  key_shape,
  mesh_context,
  round_up_rows,
  with_batch_shardings,
  with_parameter_shardings,
  with_state_shardings,
)
from acl_jax.training import pretraining, step
from acl_jax.training.optimizer import make_optimizer
from data_pipeline.features import HOP, SAMPLE_RATE

# How often a training step reads or writes each of these.
_TRAINING_PASSES = {'trainable': 3, 'optimizer': 2, 'batch': 2, 'temporaries': 2}


@dataclasses.dataclass(frozen=True)
class StepSpec:
  """A program's step, described by the shapes of its arguments.

  Attributes:
    lower: Lowers the step.
    arguments: Shapes of its arguments by role: 'llm', 'trainable', 'batch', ...
    rows: Rows of a batch, including empty rows that make it divisible by the mesh.
    llm_tokens: Tokens that the LLM processes in a step, without those of empty rows.
    audio_seconds: Seconds of audio in a step, without those of empty rows.
    hbm_passes: How often each argument, and 'temporaries', is read or written.
    towers: The models whose layers it runs: 'llama', 'encoder'.
  """

  lower: Callable[[], jax.stages.Lowered]
  arguments: dict[str, Any]
  rows: int
  llm_tokens: int
  audio_seconds: float
  hbm_passes: dict[str, int]
  towers: tuple[str, ...]


def train(
  config: TrainConfig,
  mesh: Mesh | None,
  rows: int,
  unroll: bool = False,
) -> StepSpec:
  """Return the response stage's step; `rows` of a batch, 0 for the config's.

  With `unroll`, here and below, the loops over layers are unrolled.
  """
  model = shapes.speech_llm_shapes(config)
  if unroll:
    unroll_layers(model)
  stack = model.adapter.config.stack
  stage = shapes.response_config(config)
  if unroll:  # a loop over parts, too
    stage = dataclasses.replace(stage, microbatches=1)
  budget = stage.frames_per_batch
  shape = shapes.batch_shape(config, budget, stack, model.encoder.config)
  rows = rows or shape.rows
  shape = shape._replace(rows=round_up_rows(rows, mesh))
  batch = shapes.response_batch(config, model, shape)
  frozen_attributes = lora.frozen_attributes(config, model.adapter)
  trainable_filter = step.trainable_filter(config.encoder.trains, frozen_attributes)
  graphdef, trainable, frozen = nnx.split(model, trainable_filter, ...)
  encoder = config.encoder
  optimizer = make_optimizer(stage, encoder.lr_scale, encoder.layer_lr_decay)
  state = step.TrainState(trainable, jax.eval_shape(optimizer.init, trainable))
  loss = functools.partial(
    step.response_loss, encoder_trains=config.encoder.is_trained, stage=stage
  )
  state = with_parameter_shardings(state, mesh)
  frozen = with_parameter_shardings(
    frozen, mesh, sharding.sharding_rules(config.llama.sharding)
  )
  batch = with_batch_shardings(batch, mesh)
  static = dict(graphdef=graphdef, optimizer=optimizer, loss=loss)

  def lower() -> jax.stages.Lowered:
    with mesh_context(mesh):
      return step.train_step.lower(state, batch, key_shape(mesh), frozen, **static)

  arguments = {
    'llm': frozen,
    'trainable': state.trainable,
    'optimizer': state.optimizer,
    'batch': batch,
  }
  llm_passes = 3 if stage.remat == 'full' else 2
  towers = ('llama', 'encoder') if config.encoder.is_trained else ('llama',)
  return StepSpec(
    lower,
    arguments,
    shape.rows,
    llm_tokens=rows * shape.tokens * (len(batch) - 1),  # also of the student's answers
    audio_seconds=rows * shape.frames / _frames_per_second(model.encoder.config),
    hbm_passes={'llm': llm_passes} | _TRAINING_PASSES,
    towers=towers,
  )


def pretrain(
  config: PretrainConfig,
  mesh: Mesh | None,
  rows: int,
  unroll: bool = False,
) -> StepSpec:
  """Return the step of CTC pretraining; `rows` of a batch, 0 for the config's."""
  sizes = config.encoder.sizes
  model = jax.eval_shape(
    lambda: ConformerCTC(sizes, config.vocabulary_size + 1, rngs=nnx.Rngs(0))
  )
  if unroll:
    unroll_layers(model)
  budget = config.ctc.frames_per_batch
  shape = shapes.batch_shape(config, budget, 1, sizes)
  rows = rows or shape.rows
  shape = shape._replace(rows=round_up_rows(rows, mesh))
  head = jax.eval_shape(
    lambda: pretraining.new_letter_head(config.ctc.letters, sizes, 0)
  )
  graphdef, trainable, statistics = pretraining.split(
    pretraining.PretrainModel(model, head)
  )
  optimizer = make_optimizer(config.ctc)
  moments = jax.eval_shape(optimizer.init, trainable)
  average = (trainable, statistics)
  state = with_parameter_shardings(
    pretraining.PretrainState(trainable, statistics, moments, average), mesh
  )
  batch = shapes.pretrain_batch(shape, model.encoder, config.ctc.letters_per_frame)
  batch = with_batch_shardings(batch, mesh)
  static = dict(graphdef=graphdef, optimizer=optimizer, stage=config.ctc)

  def lower() -> jax.stages.Lowered:
    with mesh_context(mesh):
      return pretraining.pretrain_step.lower(state, batch, key_shape(mesh), **static)

  arguments = {
    'trainable': (state.trainable, state.statistics),
    'average': state.average,
    'optimizer': state.optimizer,
    'batch': batch,
  }
  return StepSpec(
    lower,
    arguments,
    shape.rows,
    llm_tokens=0,
    audio_seconds=rows * shape.frames / _frames_per_second(sizes),
    hbm_passes=_TRAINING_PASSES | {'average': 2},
    towers=('encoder',),
  )


def decode(
  config: TrainConfig,
  mesh: Mesh | None,
  rows: int,
  unroll: bool = False,
) -> StepSpec:
  """Return a decode step of the engine of `decode_targets`: a token for every slot.

  `rows` are slots, 0 for the config's.
  """
  llm, targets = shapes.llama_shapes(config.llama), config.targets
  if unroll:
    unroll_layers(llm)
  rules = DecodeRules(
    sampling=targets.sampling,
    num_top_tokens=targets.top_k,
    repeats=targets.repeats,
    steps=1,
    cache_dtype=targets.cache_dtype,
  )
  slots = round_up_rows(rows or targets.batch_size, mesh)
  max_tokens = targets.max_prompt_tokens + targets.max_new_tokens
  cache_length = round_up(max_tokens, CACHE_LENGTH_STEP)

  def create(llm):
    no_prefix = llm.empty_cache(1, 0, llm.dtype)
    queue_length = max(2 * PREFILL_ROWS, slots)
    queue = empty_queue(llm, queue_length, targets.max_prompt_tokens, no_prefix)
    return empty_state(llm, slots, cache_length, rules), queue

  state, queue = (with_state_shardings(x, mesh) for x in jax.eval_shape(create, llm))
  llm = with_parameter_shardings(
    llm, mesh, sharding.sharding_rules(config.llama.sharding)
  )
  more = with_state_shardings(jax.eval_shape(lambda: jnp.bool_(True)), mesh)

  def lower() -> jax.stages.Lowered:
    with mesh_context(mesh):
      return decode_steps.lower(llm, state, queue, more, rules)

  return StepSpec(
    lower,
    arguments={'llm': llm, 'slots': state, 'room': queue},
    rows=slots,
    llm_tokens=slots,
    audio_seconds=0.0,
    hbm_passes={'llm': 1, 'slots': 1},
    towers=('llama',),
  )


def _frames_per_second(encoder) -> float:
  return SAMPLE_RATE / (HOP * encoder.subsampling)


PROGRAMS = {'train': train, 'pretrain': pretrain, 'decode_targets': decode}
