# SPDX-License-Identifier: Apache-2.0
"""CTC pretraining: batches of log-mel frames and pieces of text, and one update."""

import functools
from typing import NamedTuple

import jax
import ml_collections
import optax
from flax import nnx
from jaxtyping import Array, Float

from acl_jax.batches.arrays import PretrainBatch
from acl_jax.models.batch_norm import Moments, RunningAverage
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC, LetterHead, blank_first
from acl_jax.models.layers import unpack_segments
from acl_jax.sharding.rules import constrain_like_parameters
from acl_jax.training import losses, spikes


class PretrainModel(nnx.Module):
  """What learns: the model, and beside it a head for letters, if any are learnt."""

  def __init__(self, model: ConformerCTC, letters: LetterHead | None = None):
    self.model, self.letters = model, letters


class PretrainState(NamedTuple):
  """What a checkpoint keeps; `average` is the running average of all that is learnt."""

  trainable: nnx.State
  statistics: nnx.State
  optimizer: optax.OptState
  average: tuple[nnx.State, nnx.State]


class PretrainStepConfig(NamedTuple):
  """How a step is taken; an `average_decay` of 0 averages nothing.

  letter_layer: the layer, from 1 on, whose frames letters are read from, if any are.
  letter_weight: what their loss counts for beside that of the pieces.
  """

  average_decay: float
  remat: str | None
  letter_layer: int = 0
  letter_weight: float = 0.0


def step_config(stage: ml_collections.ConfigDict) -> PretrainStepConfig:
  """What `config.ctc` says of it."""
  letters = stage.letters
  return PretrainStepConfig(
    stage.average_decay, stage.remat, letters.layer, letters.weight
  )


def new_letter_head(
  stage: ml_collections.ConfigDict, encoder: ConformerConfig, seed: int
) -> LetterHead | None:
  """An untrained head, if `config.ctc.letters` wants one."""
  layer, per_frame = stage.letters.layer, stage.letters.per_frame
  if per_frame < 0:
    raise ValueError(f'config.ctc.letters.per_frame = {per_frame}; 0 is no letters')
  if not per_frame:
    return None
  if not 0 < layer <= encoder.num_hidden_layers:
    raise ValueError(
      f'config.ctc.letters.layer = {layer}; the encoder has layers 1 to'
      f' {encoder.num_hidden_layers}'
    )
  return LetterHead(encoder.hidden_size, per_frame, rngs=nnx.Rngs(seed))


def split(learner: PretrainModel):
  """The graph of a learner, what trains, and its batch-norm statistics."""
  return nnx.split(learner, nnx.Param, RunningAverage)


@functools.partial(
  jax.jit, static_argnames=('graphdef', 'optimizer', 'how'), donate_argnames='state'
)
def pretrain_step(
  state: PretrainState, batch: PretrainBatch, key, *, graphdef, optimizer, how
):
  """One update; returns the new state and the metrics of this step."""

  def loss(trainable):
    learner = nnx.merge(graphdef, trainable, state.statistics)
    model = learner.model
    encoded = model.encode(batch.log_mel, batch.segment_ids, key, True, how.remat)
    total = value = transcript_loss(model, encoded.frames, batch)
    metrics = {'loss': value}
    if learner.letters is not None:
      frames = encoded.of_layer[how.letter_layer - 1]
      metrics['letter_loss'] = letter_loss(learner.letters, frames, batch)
      total = value + how.letter_weight * metrics['letter_loss']
    return total, (metrics, encoded.moments)

  (value, (metrics, moments)), gradient = jax.value_and_grad(loss, has_aux=True)(
    state.trainable
  )
  gradient = constrain_like_parameters(gradient)
  update, opt = optimizer.update(
    gradient, state.optimizer, state.trainable, value=value
  )
  trainable = optax.apply_updates(state.trainable, update)
  moved = _update_statistics(state.statistics, moments)
  statistics = spikes.keep_unless_skipped(opt, moved, state.statistics)
  average = jax.tree.map(
    lambda old, new: old + (1 - how.average_decay) * (new - old),
    state.average,
    (trainable, statistics),
  )
  metrics['grad_norm'] = optax.tree.norm(gradient)
  state = constrain_like_parameters(PretrainState(trainable, statistics, opt, average))
  return state, metrics | spikes.skipped_metric(opt)


def transcript_loss(
  model: ConformerCTC, frames: Float[Array, 'b u d'], batch: PretrainBatch
) -> Float[Array, '']:
  """CTC's loss over the recordings of a batch, each apart from its neighbours."""
  frames, valid = unpack_segments(frames, batch.frame_index)
  labels = batch.labels.reshape(valid.shape)
  return losses.ctc(blank_first(model.logits(frames)), valid, labels)


def letter_loss(
  head: LetterHead, frames: Float[Array, 'b u d'], batch: PretrainBatch
) -> Float[Array, '']:
  """The same of letters, which frames of a middle layer are asked for."""
  logits, valid = head(*unpack_segments(frames, batch.frame_index))
  return losses.ctc(logits, valid, batch.letters.reshape(valid.shape))


def _update_statistics(statistics, moments: Moments):
  """The statistics with the moments that a forward pass returned."""
  new = {'running_mean': moments.mean, 'running_var': moments.variance}
  flat = nnx.to_flat_state(statistics)
  return nnx.from_flat_state(
    [(path, variable.replace(new[str(path[-1])])) for path, variable in flat]
  )


def averaged_model(state: PretrainState, graphdef) -> ConformerCTC:
  """The model of the averages."""
  return nnx.merge(graphdef, *state.average).model
