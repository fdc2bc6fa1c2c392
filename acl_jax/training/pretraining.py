# SPDX-License-Identifier: Apache-2.0
"""CTC pretraining: model, losses and one update."""

import functools
from typing import NamedTuple

import jax
import optax
from flax import nnx
from jaxtyping import Array, Float

from acl_jax.batches.arrays import PretrainBatch
from acl_jax.config.stages import LettersConfig
from acl_jax.models.batch_norm import Moments, RunningAverage
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC, LetterHead, blank_first
from acl_jax.models.layers import unpack_segments
from acl_jax.sharding.rules import constrain_like_parameters
from acl_jax.training import losses, spikes


class PretrainModel(nnx.Module):
  """The encoder with its CTC head and, during training only, a head for letters."""

  def __init__(self, model: ConformerCTC, letters: LetterHead | None = None):
    self.model, self.letters = model, letters


class PretrainState(NamedTuple):
  """The state in a checkpoint.

  statistics: of batch normalisation. average: running average of parameters and
  statistics.
  """

  trainable: nnx.State
  statistics: nnx.State
  optimizer: optax.OptState
  average: tuple[nnx.State, nnx.State]


def new_letter_head(
  letters: LettersConfig | None, encoder: ConformerConfig, seed: int
) -> LetterHead | None:
  """Return an untrained letter head, or None without `config.ctc.letters`."""
  if letters is None or letters.per_frame == 0:
    return None
  if letters.per_frame < 0:
    raise ValueError(
      f'config.ctc.letters.per_frame = {letters.per_frame}; the minimum is 0, for no'
      ' letters'
    )
  if not 0 < letters.layer <= encoder.num_hidden_layers:
    raise ValueError(
      f'config.ctc.letters.layer = {letters.layer}; the encoder has layers 1 to'
      f' {encoder.num_hidden_layers}'
    )
  per_frame = letters.per_frame
  return LetterHead(encoder.hidden_size, per_frame, rngs=nnx.Rngs(seed))


def split(model: PretrainModel):
  """Split into graph definition, parameters and batch-norm statistics."""
  return nnx.split(model, nnx.Param, RunningAverage)


@functools.partial(
  jax.jit, static_argnames=('graphdef', 'optimizer', 'stage'), donate_argnames='state'
)
def pretrain_step(
  state: PretrainState, batch: PretrainBatch, key, *, graphdef, optimizer, stage
):
  """One update; returns the new state and the metrics of this step."""

  def loss(trainable):
    merged = nnx.merge(graphdef, trainable, state.statistics)
    model = merged.model
    encoded = model.encode(batch.log_mel, batch.segment_ids, key, True, stage.remat)
    total = value = transcript_loss(model, encoded.frames, batch)
    metrics = {'loss': value}
    if merged.letters is not None:
      frames = encoded.layer_frames[stage.letters.layer - 1]
      metrics['letter_loss'] = letter_loss(merged.letters, frames, batch)
      total = value + stage.letters.weight * metrics['letter_loss']
    return total, (metrics, encoded.moments)

  compute_gradient = jax.value_and_grad(loss, has_aux=True)
  (value, (metrics, moments)), gradient = compute_gradient(state.trainable)
  gradient = constrain_like_parameters(gradient)
  update, optimizer_state = optimizer.update(
    gradient, state.optimizer, state.trainable, value=value
  )
  trainable = optax.apply_updates(state.trainable, update)
  updated = _update_statistics(state.statistics, moments)
  statistics = spikes.keep_unless_skipped(optimizer_state, updated, state.statistics)
  average = jax.tree.map(
    lambda old, new: old + (1 - stage.average_decay) * (new - old),
    state.average,
    (trainable, statistics),
  )
  metrics['grad_norm'] = optax.tree.norm(gradient)
  metrics |= spikes.skipped_metric(optimizer_state)
  state = PretrainState(trainable, statistics, optimizer_state, average)
  return constrain_like_parameters(state), metrics


def transcript_loss(
  model: ConformerCTC, frames: Float[Array, 'b u d'], batch: PretrainBatch
) -> Float[Array, '']:
  """CTC loss of the transcripts, after unpacking the rows into utterances."""
  frames, frame_mask = unpack_segments(frames, batch.frame_index)
  labels = batch.labels.reshape(frame_mask.shape)
  return losses.ctc(blank_first(model.logits(frames)), frame_mask, labels)


def letter_loss(
  head: LetterHead, frames: Float[Array, 'b u d'], batch: PretrainBatch
) -> Float[Array, '']:
  """CTC loss of the letters of the transcripts, from frames of a middle layer."""
  logits, letter_mask = head(*unpack_segments(frames, batch.frame_index))
  return losses.ctc(logits, letter_mask, batch.letters.reshape(letter_mask.shape))


def _update_statistics(statistics, moments: Moments):
  """Return the statistics with the moments that a forward pass returned."""
  new = {'running_mean': moments.mean, 'running_var': moments.variance}
  flat = nnx.to_flat_state(statistics)
  return nnx.from_flat_state(
    [(path, variable.replace(new[str(path[-1])])) for path, variable in flat]
  )


def averaged_model(state: PretrainState, graphdef) -> ConformerCTC:
  """Return the model with the averaged parameters and statistics."""
  return nnx.merge(graphdef, *state.average).model
