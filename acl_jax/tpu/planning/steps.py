# SPDX-License-Identifier: Apache-2.0
"""The steps that the programs take, with the shapes of their arguments, ready to be
lowered: for the devices of a mesh, or for the CPU to be counted.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from acl_jax.generation.engine import CACHE_LENGTH_STEP, PREFILL_ROWS
from acl_jax.generation.prefill_queue import empty_queue
from acl_jax.generation.sampling import Sampling
from acl_jax.generation.slots import DecodeRules, decode_steps, empty_state
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.runtime.rounding import round_up
from acl_jax.sharding import rules as sharding
from acl_jax.tpu.planning import shapes
from acl_jax.training import pretraining, step
from acl_jax.training.optimizer import make_optimizer
from data_pipeline.features import HOP, SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class Step:
  """A step of a program.

  arguments: what it is given, by what it is. passes: how often each of these, and what
  it makes meanwhile, is read or written. rows: of a batch, with those that are empty.
  llm_tokens, audio_seconds: that are read and heard in a step, the other rows full.
  towers: whose layers it runs.
  """

  lower: Callable[[], jax.stages.Lowered]
  arguments: dict[str, Any]
  rows: int
  llm_tokens: int
  audio_seconds: float
  passes: dict[str, int]
  towers: tuple[str, ...]


def train(config: ml_collections.ConfigDict, mesh: Mesh | None, rows: int) -> Step:
  """The response stage's step; rows: of a batch, 0 as the config has it."""
  model = shapes.speech_llm_of(config)
  stack, second = model.adapter.config.stack, _frames_per_second(model.encoder.config)
  budget = config.response.frames_per_batch
  layout = shapes.layout_of(config, budget, stack, second)
  rows = rows or layout.rows
  layout = layout._replace(rows=_filled(rows, mesh))
  batch = shapes.response_batch(config, model, layout)
  trains = step.trainable_filter(config.encoder.trains)
  graphdef, trainable, frozen = nnx.split(model, trains, ...)
  optimizer = make_optimizer(config.response, config.encoder.lr_scale)
  state = step.TrainState(trainable, jax.eval_shape(optimizer.init, trainable))
  how = config.response
  loss = functools.partial(
    step.response_loss,
    encoder_trains=config.encoder.trains,
    how=step.ResponseLossConfig(
      how.kl_weight, how.kl_temperature, how.ctc_weight, how.remat
    ),
  )
  state = placed(state, mesh)
  frozen = placed(frozen, mesh, sharding.sharding_rules(config.llama.sharding))
  batch = placed_batch(batch, mesh)
  still = dict(graphdef=graphdef, optimizer=optimizer, loss=loss)

  def lower() -> jax.stages.Lowered:
    with mesh_context(mesh):
      return step.train_step.lower(state, batch, a_key(mesh), frozen, **still)

  arguments = {
    'llm': frozen,
    'trainable': state.trainable,
    'optimizer': state.optimizer,
    'batch': batch,
  }
  seconds = rows * layout.frames / second
  tokens, reads = rows * layout.tokens, 3 if how.remat == 'full' else 2
  passes = {'llm': reads, 'trainable': 3, 'optimizer': 2, 'batch': 2, 'temporaries': 2}
  towers = ('llama', 'encoder') if config.encoder.trains else ('llama',)
  return Step(lower, arguments, layout.rows, tokens, seconds, passes, towers)


def pretrain(config: ml_collections.ConfigDict, mesh: Mesh | None, rows: int) -> Step:
  """The step of CTC pretraining."""
  sizes = ConformerConfig(**config.encoder.sizes)
  model = jax.eval_shape(
    lambda: ConformerCTC(sizes, config.vocabulary_size + 1, rngs=nnx.Rngs(0))
  )
  second, budget = _frames_per_second(sizes), config.ctc.frames_per_batch
  layout = shapes.layout_of(config, budget, 1, second)
  rows = rows or layout.rows
  layout = layout._replace(rows=_filled(rows, mesh))
  head = jax.eval_shape(lambda: pretraining.new_letter_head(config.ctc, sizes, 0))
  graphdef, trainable, statistics = pretraining.split(
    pretraining.PretrainModel(model, head)
  )
  optimizer = make_optimizer(config.ctc)
  moments = jax.eval_shape(optimizer.init, trainable)
  average = (trainable, statistics)
  state = placed(
    pretraining.PretrainState(trainable, statistics, moments, average), mesh
  )
  batch = shapes.transcribed_batch(layout, model.encoder, config.ctc.letters.per_frame)
  batch, how = placed_batch(batch, mesh), pretraining.step_config(config.ctc)
  still = dict(graphdef=graphdef, optimizer=optimizer, how=how)

  def lower() -> jax.stages.Lowered:
    with mesh_context(mesh):
      return pretraining.pretrain_step.lower(state, batch, a_key(mesh), **still)

  arguments = {
    'trainable': (state.trainable, state.statistics),
    'average': state.average,
    'optimizer': state.optimizer,
    'batch': batch,
  }
  seconds = rows * layout.frames / second
  passes = {'trainable': 3, 'average': 2, 'optimizer': 2, 'batch': 2, 'temporaries': 2}
  return Step(lower, arguments, layout.rows, 0, seconds, passes, ('encoder',))


def decode(config: ml_collections.ConfigDict, mesh: Mesh | None, rows: int) -> Step:
  """One token for every slot of the engine of `decode_targets`; rows: slots."""
  llm, how = shapes.llama_of(config), config.targets
  sampling = Sampling(**how.sampling)
  rules = DecodeRules(
    sampling=sampling,
    top=how.top_k,
    repeats=how.repeats,
    steps=1,
    cache_dtype=how.get('cache_dtype', ''),
  )
  count = _filled(rows or how.batch_size, mesh)
  places = round_up(how.max_prompt_tokens + how.max_new_tokens, CACHE_LENGTH_STEP)

  def empty(llm):
    nothing = llm.empty_cache(1, 0, llm.dtype)
    waiting = empty_queue(
      llm, max(2 * PREFILL_ROWS, count), how.max_prompt_tokens, nothing
    )
    return empty_state(llm, count, places, rules), waiting

  slots, room = (placed_rows(x, mesh) for x in jax.eval_shape(empty, llm))
  llm = placed(llm, mesh, sharding.sharding_rules(config.llama.sharding))
  more = jax.eval_shape(lambda: jnp.bool_(True))
  more = more if mesh is None else _with(more, NamedSharding(mesh, P()))

  def lower() -> jax.stages.Lowered:
    with mesh_context(mesh):
      return decode_steps.lower(llm, slots, room, more, rules)

  arguments, passes = {'llm': llm, 'slots': slots, 'room': room}, {'llm': 1, 'slots': 1}
  return Step(lower, arguments, count, count, 0.0, passes, ('llama',))


def _filled(rows: int, mesh: Mesh | None) -> int:
  """With those that are empty, so that all devices have as many."""
  shares = 1 if mesh is None else mesh.shape['data'] * mesh.shape['fsdp']
  return round_up(rows, shares)


def _frames_per_second(encoder) -> float:
  return SAMPLE_RATE / (HOP * encoder.subsampling)


def mesh_context(mesh: Mesh | None):
  """The context to lower in."""
  return jax.set_mesh(mesh) if mesh else contextlib.nullcontext()


def placed(
  tree, mesh: Mesh | None, rules: sharding.ShardingRules = sharding.PARAMETERS
):
  """Shapes of parameters, or of what is kept for each, with their shardings."""
  if mesh is None:
    return tree
  return _with(tree, sharding.shardings(tree, mesh, rules))


def placed_batch(batch, mesh: Mesh | None):
  """Shapes of a batch: rows are cut, what all rows share is not."""
  if mesh is None:
    return batch
  cut, whole = NamedSharding(mesh, P(sharding.BATCH_AXES)), NamedSharding(mesh, P())
  return _with(batch, jax.tree.map(lambda x: cut if x.ndim > 1 else whole, batch))


def _with(tree, shardings):
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
  )


def a_key(mesh: Mesh | None):
  """The shape of a random key."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  return key if mesh is None else _with(key, NamedSharding(mesh, P()))


def placed_rows(state, mesh: Mesh | None):
  """Shapes of slots, or of the room before them, cut by rows; caches by heads, too."""
  if mesh is None:
    return state

  def of(x) -> NamedSharding:
    if x.ndim == 5:
      return NamedSharding(mesh, P(None, sharding.BATCH_AXES, 'tensor'))
    return NamedSharding(mesh, P(sharding.BATCH_AXES) if x.ndim else P())

  return _with(state, jax.tree.map(of, state))


PROGRAMS = {'train': train, 'pretrain': pretrain, 'decode_targets': decode}
