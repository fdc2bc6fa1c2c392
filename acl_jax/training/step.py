# SPDX-License-Identifier: Apache-2.0
"""One update of the trainable parameters, and the losses of both stages.

Only the trainable sub-tree is differentiated: a frozen LLM costs its forward pass and
the gradient with respect to its inputs, but none with respect to its weights.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.config.stages import ResponseStageConfig
from acl_jax.models import lora
from acl_jax.models.layers import unpack_segments
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.models.transcript_writer import END
from acl_jax.sharding.rules import constrain_like_parameters
from acl_jax.training import embedding_ctc, losses, response_losses, spikes


class TrainState(NamedTuple):
  """The state in a checkpoint."""

  trainable: nnx.State
  optimizer: optax.OptState


def trainable_filter(trains: str, pretrained: Sequence[str] = ()) -> Callable:
  """Return the `nnx` filter of the parameters that train.

  These are the adapter's, the factors of low-rank updates anywhere and, with 'full',
  the encoder's. trains: `config.encoder.trains`. pretrained: attributes of the adapter
  of which only such factors train.
  """
  towers = ('adapter', 'encoder') if trains == 'full' else ('adapter',)

  def is_trainable(path, leaf) -> bool:
    if issubclass(leaf.type, lora.Factor):
      return True
    # The encoder's own CTC head takes no part in any loss.
    is_head = 'ctc_head' in path
    if path[0] == 'adapter' and path[1] in pretrained:
      return False
    return path[0] in towers and not is_head and issubclass(leaf.type, nnx.Param)

  return is_trainable


def encode_batch(
  model: SpeechLLM, audio: AudioBatch, encoder_trains: bool, remat: str | None = None
) -> tuple[Float[Array, 'a u d'], Bool[Array, 'a u']]:
  """Return the encoder frames of each utterance, in the LLM's dtype, and their mask.

  An encoder that trains runs here; otherwise the batch has encoder frames already.

  remat: of the encoder, see `protocols.Encoder.encode_rows`.
  """
  frames = audio.frames.astype(model.llama.dtype)
  if encoder_trains:
    frames = model.encoder.encode_rows(frames, audio.segment_ids, remat)
  return unpack_segments(frames, audio.frame_index)


def ctc_loss(
  model: SpeechLLM,
  batch: AudioBatch,
  key: Array,
  *,
  encoder_trains: bool,
  blank_token: int,
):
  """Loss of the CTC stage: the transcript in the LLM's tokens and, if any, in letters.

  key: of the dropout. blank_token: what a stride adapter returns where there is nothing
  to write. Returns the loss and its parts.
  """
  frames, frame_mask = encode_batch(model, batch, encoder_trains)
  if model.adapter.kind == 'ctc':
    return _ctc_loss_of_frames(model, batch, key, frames, frame_mask)
  embeddings, mask = model.adapt(frames, frame_mask)
  tokens = jnp.concatenate([jnp.array([blank_token]), batch.candidates])
  classes = model.llama.embed(tokens)
  labels = batch.labels.reshape(-1, batch.labels.shape[-1])
  return embedding_ctc.loss(embeddings, mask, classes, batch.logit_correction, labels)


def _ctc_loss_of_frames(
  model: SpeechLLM,
  batch: AudioBatch,
  key: Array,
  frames: Float[Array, 'a u d'],
  frame_mask: Bool[Array, 'a u'],
):
  table = model.llama.embed_tokens[...]
  adapter: Any = model.adapter  # a CTC adapter
  scores = adapter.scores(frames, frame_mask, table, key, batch.candidates)
  logits = scores.tokens + jnp.broadcast_to(batch.logit_correction, scores.tokens.shape)
  labels = batch.labels.reshape(-1, batch.labels.shape[-1])
  token_loss = losses.ctc(logits, scores.mask, labels)
  if scores.letters is None or scores.letters_mask is None:
    return token_loss, {'ctc_tokens': token_loss}
  letters = batch.letters.reshape(-1, batch.letters.shape[-1])
  letter_loss = losses.ctc(scores.letters, scores.letters_mask, letters)
  loss = token_loss + letter_loss
  return loss, {'ctc_tokens': token_loss, 'ctc_letters': letter_loss}


def transcription_loss(
  model: SpeechLLM,
  batch: AudioBatch,
  key: Array,
  *,
  encoder_trains: bool,
  label_smoothing: float,
):
  """Loss of the transcription stage: the transcript in the LLM's tokens, then its end.

  The decoder is teacher-forced. Returns the loss and its parts.
  """
  del key
  frames, frame_mask = encode_batch(model, batch, encoder_trains)
  return _transcription_loss_of_frames(
    model, batch, frames, frame_mask, label_smoothing
  )


def _transcription_loss_of_frames(
  model: SpeechLLM,
  batch: AudioBatch,
  frames: Float[Array, 'a u d'],
  frame_mask: Bool[Array, 'a u'],
  label_smoothing: float = 0.0,
):
  adapter: Any = model.adapter  # an attention adapter
  labels = batch.labels.reshape(-1, batch.labels.shape[-1])
  entries = batch.candidates[jnp.maximum(labels - 1, 0)] + 1
  classes = jnp.where(labels == END, END, entries)
  logits = adapter.scores(frames, frame_mask, classes, batch.candidates)
  logits = logits.astype(jnp.float32)
  logits += jnp.broadcast_to(batch.logit_correction, logits.shape)
  num_labels = jnp.sum(labels != END, axis=1, keepdims=True)
  targets = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=END)
  mask = jnp.arange(targets.shape[1])[None] <= num_labels
  mask &= jnp.any(frame_mask, axis=1, keepdims=True)
  loss = losses.smoothed_cross_entropy(logits, targets, mask, label_smoothing)
  return loss, {'transcription': loss}


def response_loss(
  model: SpeechLLM,
  batch: tuple[AudioBatch, ResponseBatch] | tuple[AudioBatch, ResponseBatch, Any],
  key: Array,
  *,
  encoder_trains: bool,
  stage: ResponseStageConfig,
):
  """Loss of the response stage: the response to the transcript, given the audio.

  It is the cross-entropy plus, as `stage` weighs them, the KL divergence to the
  teacher's top tokens, the same divergence on the student's answers and the loss of the
  CTC stage.

  batch: with `stage.on_policy` a second `ResponseBatch` has the student's answers.
  key: of the dropout of the CTC loss. Returns the loss and its parts.
  """
  audio, *responses = batch
  frames, frame_mask = encode_batch(model, audio, encoder_trains, stage.remat)
  clips = model.adapt_rows(frames, frame_mask, len(responses[0].prompt.tokens))
  loss, parts = response_losses.evaluate(model, clips, responses, stage)
  if stage.ctc_weight and model.adapter.kind == 'ctc':
    auxiliary, ctc_parts = _ctc_loss_of_frames(model, audio, key, frames, frame_mask)
    loss += stage.ctc_weight * auxiliary
    parts |= ctc_parts
  if stage.transcription_weight and model.adapter.kind == 'attention':
    auxiliary, transcription_parts = _transcription_loss_of_frames(
      model, audio, frames, frame_mask
    )
    loss += stage.transcription_weight * auxiliary
    parts |= transcription_parts
  return loss, parts


@functools.partial(
  jax.jit, static_argnames=('graphdef', 'optimizer', 'loss'), donate_argnames='state'
)
def train_step(state: TrainState, batch, key, frozen, *, graphdef, optimizer, loss):
  """One update; returns the new state and the metrics of this step.

  loss: `ctc_loss` or `response_loss` with the arguments that a stage fixes.
  """

  def loss_of_trainable(trainable):
    model = nnx.merge(graphdef, trainable, frozen)
    lora.set_dropout_key(model, jax.random.fold_in(key, 1))
    return loss(model, batch, key)

  compute_gradient = jax.value_and_grad(loss_of_trainable, has_aux=True)
  (value, parts), gradient = compute_gradient(state.trainable)
  gradient = constrain_like_parameters(gradient)
  update, optimizer_state = optimizer.update(
    gradient, state.optimizer, state.trainable, value=value
  )
  trainable = optax.apply_updates(state.trainable, update)
  metrics = {'loss': value, 'grad_norm': optax.tree.norm(gradient), **parts}
  metrics |= spikes.skipped_metric(optimizer_state)
  return constrain_like_parameters(TrainState(trainable, optimizer_state)), metrics
