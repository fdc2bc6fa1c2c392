# SPDX-License-Identifier: Apache-2.0
"""CTC pretraining: batches of log-mel frames and pieces of text, and one update."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import optax
from absl import logging
from flax import nnx
from jaxtyping import Array, Float, Int

from acl_jax.models.batch_norm import Moments, RunningAverage
from acl_jax.models.conformer_ctc import ConformerCTC, blank_first
from acl_jax.models.ctc import BLANK
from acl_jax.models.layers import apart
from acl_jax.parallel.sharding import hold
from acl_jax.text.ctc_vocabulary import Vocabulary
from acl_jax.training import losses, spikes
from acl_jax.training.log_mels import LogMels, read_side_by_side
from acl_jax.training.orders import NO_PLACE
from acl_jax.training.sounds import frames_needed
from data_pipeline.batches import Batch, pad_each

SHOWN = 10  # reasons of examples left out that are told in full


class Transcribed(NamedTuple):
  """Rows of recordings, and their transcripts as CTC classes, `BLANK` behind.

  place: where in its row the encoder frames of each recording are; -1 is nowhere.
  """

  log_mel: Float[Array, 'b t m']
  segment_ids: Int[Array, 'b t']
  place: Int[Array, 'b k u']
  labels: Int[Array, 'b k u']


class Transcripts:
  """Assembles `Transcribed`; what CTC cannot learn has no place in any batch."""

  def __init__(self, source: LogMels, vocabulary: Vocabulary):
    self.source = source
    known: dict[str, list[int]] = {}  # of each text, as copies share theirs
    reasons: dict[str, str] = {}
    for id, text in zip(source.ids, source.texts, strict=True):
      if text not in known:
        try:
          # Ours begin with the blank, theirs end with it.
          known[text] = [piece + 1 for piece in vocabulary.encode(text)]
          if not known[text]:
            reasons[id] = 'its transcript has neither letters nor digits'
        except ValueError as error:
          known[text], reasons[id] = [], str(error)
    self.labels = [known[text] for text in source.texts]
    self.lengths = self._places(reasons)
    for id in list(reasons)[:SHOWN]:
      logging.warning('%s is left out: %s', id, reasons[id])

  def _places(self, reasons: dict[str, str]) -> np.ndarray:
    """Frames of every recording, `NO_PLACE` where there is nothing to learn."""
    lengths = self.source.lengths.copy()
    for i, labels in enumerate(self.labels):
      needed = frames_needed(labels)
      if needed > lengths[i]:
        reasons[self.source.ids[i]] = (
          f'CTC needs {needed} frames to write its {len(labels)} pieces; it has'
          f' {lengths[i]}'
        )
      if not labels or needed > lengths[i]:
        lengths[i] = NO_PLACE
    return lengths

  def __call__(self, batch: Batch) -> Transcribed:
    batch, laid = read_side_by_side(self.source, batch)
    labels = [[self.labels[i] for i in row] for row in batch.recordings]
    labels = pad_each(labels, batch, batch.longest, BLANK, np.int32)
    return Transcribed._make((*laid, labels))


class State(NamedTuple):
  """What a checkpoint keeps; `average` is the running average of all that is learnt."""

  trainable: nnx.State
  statistics: nnx.State
  optimizer: optax.OptState
  average: tuple[nnx.State, nnx.State]


class How(NamedTuple):
  """How a step is taken; an `average_decay` of 0 averages nothing."""

  average_decay: float
  remat: str | None


def split(model: ConformerCTC):
  """The graph of a model, what trains, and its batch-norm statistics."""
  return nnx.split(model, nnx.Param, RunningAverage)


@functools.partial(
  jax.jit, static_argnames=('graphdef', 'optimizer', 'how'), donate_argnames='state'
)
def pretrain_step(state: State, batch: Transcribed, key, *, graphdef, optimizer, how):
  """One update; returns the new state and the metrics of this step."""

  def loss(trainable):
    model = nnx.merge(graphdef, trainable, state.statistics)
    encoded = model.encode(batch.log_mel, batch.segment_ids, key, True, how.remat)
    return transcript_loss(model, encoded.frames, batch), encoded.moments

  (value, moments), gradient = jax.value_and_grad(loss, has_aux=True)(state.trainable)
  gradient = hold(gradient)
  update, opt = optimizer.update(
    gradient, state.optimizer, state.trainable, value=value
  )
  trainable = optax.apply_updates(state.trainable, update)
  moved = _moved(state.statistics, moments)
  statistics = spikes.unless_skipped(opt, moved, state.statistics)
  average = jax.tree.map(
    lambda old, new: old + (1 - how.average_decay) * (new - old),
    state.average,
    (trainable, statistics),
  )
  metrics = {'loss': value, 'grad_norm': optax.tree.norm(gradient)}
  state = hold(State(trainable, statistics, opt, average))
  return state, metrics | spikes.count_skipped(opt)


def transcript_loss(
  model: ConformerCTC, frames: Float[Array, 'b u d'], batch: Transcribed
) -> Float[Array, '']:
  """CTC's loss over the recordings of a batch, each apart from its neighbours."""
  frames, valid = apart(frames, batch.place)
  labels = batch.labels.reshape(valid.shape)
  return losses.ctc(blank_first(model.logits(frames)), valid, labels)


def _moved(statistics, moments: Moments):
  """The statistics with the moments that a forward pass returned."""
  new = {'running_mean': moments.mean, 'running_var': moments.variance}
  flat = nnx.to_flat_state(statistics)
  return nnx.from_flat_state(
    [(path, variable.replace(new[str(path[-1])])) for path, variable in flat]
  )


def learnt(state: State, graphdef) -> ConformerCTC:
  """The model of the averages."""
  return nnx.merge(graphdef, *state.average)
