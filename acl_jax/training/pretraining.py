# SPDX-License-Identifier: Apache-2.0
"""CTC pretraining: batches of log-mel frames and pieces of text, and one update."""

import functools
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import optax
from absl import logging
from flax import nnx
from jaxtyping import Array, Float, Int

from acl_jax.batches.ctc import frames_needed
from acl_jax.batches.log_mels import LogMels, read_side_by_side
from acl_jax.batches.orders import NO_PLACE
from acl_jax.models.batch_norm import Moments, RunningAverage
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC, LetterHead, blank_first
from acl_jax.models.ctc import BLANK
from acl_jax.models.layers import apart
from acl_jax.models.spelling import sounded
from acl_jax.sharding.rules import hold
from acl_jax.text.ctc_vocabulary import Vocabulary
from acl_jax.training import losses, spikes
from data_pipeline.batches import Batch, pad_each

SHOWN = 10  # reasons of examples left out that are told in full


class Transcribed(NamedTuple):
  """Rows of recordings, and their transcripts as CTC classes, `BLANK` behind.

  place: where in its row the encoder frames of each recording are; -1 is nowhere.
  letters: of the transcripts; r is as many for each frame as `LetterHead` reads, or 0.
  """

  log_mel: Float[Array, 'b t m']
  segment_ids: Int[Array, 'b t']
  place: Int[Array, 'b k u']
  labels: Int[Array, 'b k u']
  letters: Int[Array, 'b k r']


class Learner(nnx.Module):
  """What learns: the model, and beside it a head for letters, if any are learnt."""

  def __init__(self, model: ConformerCTC, letters: LetterHead | None = None):
    self.model, self.letters = model, letters


class Transcripts:
  """Assembles `Transcribed`; what CTC cannot learn has no place in any batch.

  letters_per_frame: how many frames of letters an encoder frame has; 0 is no letters.
  """

  def __init__(
    self, source: LogMels, vocabulary: Vocabulary, letters_per_frame: int = 0
  ):
    self.source, self.letters_per_frame = source, letters_per_frame
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
    spelt = {text: sounded(text) if letters_per_frame else [] for text in known}
    self.letters = [spelt[text] for text in source.texts]
    self.lengths = self._places(reasons)
    for id in list(reasons)[:SHOWN]:
      logging.warning('%s is left out: %s', id, reasons[id])

  def _places(self, reasons: dict[str, str]) -> np.ndarray:
    """Frames of every recording, `NO_PLACE` where there is nothing to learn."""
    lengths = self.source.lengths.copy()
    for i, length in enumerate(self.source.lengths):
      for what, labels, frames in (
        ('pieces', self.labels[i], length),
        ('letters', self.letters[i], length * self.letters_per_frame),
      ):
        if (needed := frames_needed(labels)) > frames:
          reasons[self.source.ids[i]] = (
            f'CTC needs {needed} frames to write its {len(labels)} {what}; it has'
            f' {frames}'
          )
          lengths[i] = NO_PLACE
      if not self.labels[i]:
        lengths[i] = NO_PLACE
    return lengths

  def __call__(self, batch: Batch) -> Transcribed:
    batch, laid = read_side_by_side(self.source, batch)
    labels, letters = (
      pad_each(
        [[of[i] for i in row] for row in batch.recordings],
        *(batch, width, BLANK, np.int32),
      )
      for of, width in (
        (self.labels, batch.longest),
        (self.letters, batch.longest * self.letters_per_frame),
      )
    )
    return Transcribed._make((*laid, labels, letters))


class State(NamedTuple):
  """What a checkpoint keeps; `average` is the running average of all that is learnt."""

  trainable: nnx.State
  statistics: nnx.State
  optimizer: optax.OptState
  average: tuple[nnx.State, nnx.State]


class How(NamedTuple):
  """How a step is taken; an `average_decay` of 0 averages nothing.

  letter_layer: the layer, from 1 on, whose frames letters are read from, if any are.
  letter_weight: what their loss counts for beside that of the pieces.
  """

  average_decay: float
  remat: str | None
  letter_layer: int = 0
  letter_weight: float = 0.0


def how_of(stage: ml_collections.ConfigDict) -> How:
  """What `config.ctc` says of it."""
  letters = stage.letters
  return How(stage.average_decay, stage.remat, letters.layer, letters.weight)


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


def split(learner: Learner):
  """The graph of a learner, what trains, and its batch-norm statistics."""
  return nnx.split(learner, nnx.Param, RunningAverage)


@functools.partial(
  jax.jit, static_argnames=('graphdef', 'optimizer', 'how'), donate_argnames='state'
)
def pretrain_step(state: State, batch: Transcribed, key, *, graphdef, optimizer, how):
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
  metrics['grad_norm'] = optax.tree.norm(gradient)
  state = hold(State(trainable, statistics, opt, average))
  return state, metrics | spikes.count_skipped(opt)


def transcript_loss(
  model: ConformerCTC, frames: Float[Array, 'b u d'], batch: Transcribed
) -> Float[Array, '']:
  """CTC's loss over the recordings of a batch, each apart from its neighbours."""
  frames, valid = apart(frames, batch.place)
  labels = batch.labels.reshape(valid.shape)
  return losses.ctc(blank_first(model.logits(frames)), valid, labels)


def letter_loss(
  head: LetterHead, frames: Float[Array, 'b u d'], batch: Transcribed
) -> Float[Array, '']:
  """The same of letters, which frames of a middle layer are asked for."""
  logits, valid = head(*apart(frames, batch.place))
  return losses.ctc(logits, valid, batch.letters.reshape(valid.shape))


def _moved(statistics, moments: Moments):
  """The statistics with the moments that a forward pass returned."""
  new = {'running_mean': moments.mean, 'running_var': moments.variance}
  flat = nnx.to_flat_state(statistics)
  return nnx.from_flat_state(
    [(path, variable.replace(new[str(path[-1])])) for path, variable in flat]
  )


def learnt(state: State, graphdef) -> ConformerCTC:
  """The model of the averages."""
  return nnx.merge(graphdef, *state.average).model
