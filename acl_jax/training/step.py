# SPDX-License-Identifier: Apache-2.0
"""One update of what trains. Only the trainable sub-tree is differentiated: the frozen
LLM costs its forward pass and the gradient of its inputs, never that of its weights.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.models.ctc import CTCAdapter
from acl_jax.models.layers import unpack_segments
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.models.whisper import Whisper
from acl_jax.sharding.rules import constrain_like_parameters
from acl_jax.training import losses, spikes


class TrainState(NamedTuple):
  """What a checkpoint keeps."""

  trainable: nnx.State
  optimizer: optax.OptState


class ResponseLossConfig(NamedTuple):
  """How the parts of the response stage's loss are weighed."""

  kl_weight: float
  kl_temperature: float
  ctc_weight: float
  remat: str | None


def trainable_filter(encoder_trains: bool) -> Callable:
  """The filter of what trains: the adapter's parameters, and the encoder's if asked."""
  towers = ('adapter', 'encoder') if encoder_trains else ('adapter',)

  def trains(path, leaf) -> bool:
    # No loss reaches the head of an encoder that recognises by itself.
    head = 'ctc_head' in path
    return path[0] in towers and not head and issubclass(leaf.type, nnx.Param)

  return trains


def encode_batch(
  model: SpeechLLM, sound: AudioBatch, encoder_trains: bool, remat: str | None = None
) -> tuple[Float[Array, 'a u d'], Bool[Array, 'a u']]:
  """Each recording's encoder frames: computed here where the encoder trains.

  In the dtype of the LLM. remat: of a Conformer, see `Conformer.encode`.
  """
  frames = sound.frames.astype(model.llama.dtype)
  if encoder_trains:
    if isinstance(model.encoder, Whisper):  # hears one a row
      frames, _ = model.encoder(frames, sound.segment_ids > 0)
    else:
      encoded = model.encoder.encode(frames, sound.segment_ids, remat=remat)
      frames = encoded.frames
  return unpack_segments(frames, sound.frame_index)


def ctc_loss(model: SpeechLLM, batch: AudioBatch, key: Array, *, encoder_trains: bool):
  """The CTC stage: recognise the transcript, in letters and in the LLM's own tokens."""
  frames, valid = encode_batch(model, batch, encoder_trains)
  table = model.llama.embed_tokens[...]
  assert isinstance(model.adapter, CTCAdapter), 'the stage is for CTC adapters'
  scores = model.adapter.scores(frames, valid, table, key, batch.candidates)
  logits = scores.tokens + jnp.broadcast_to(batch.logit_correction, scores.tokens.shape)
  labels, letters = (x.reshape(-1, x.shape[-1]) for x in (batch.labels, batch.letters))
  tokens = losses.ctc(logits, scores.valid, labels)
  if scores.letters is None or scores.letters_valid is None:
    return tokens, {'ctc_tokens': tokens}
  letters = losses.ctc(scores.letters, scores.letters_valid, letters)
  return tokens + letters, {'ctc_tokens': tokens, 'ctc_letters': letters}


def response_loss(
  model: SpeechLLM,
  batch: tuple[AudioBatch, ResponseBatch],
  key: Array,
  *,
  encoder_trains: bool,
  how: ResponseLossConfig,
):
  """The response stage: answer the recording as the transcript was answered."""
  sound, response = batch
  frames, valid = encode_batch(model, sound, encoder_trains, how.remat)
  rows = len(response.prompt.tokens)
  heard, heard_valid = model.adapt(frames, valid)
  heard, heard_valid = (x.reshape(rows, -1, *x.shape[2:]) for x in (heard, heard_valid))
  x, seen = model.splice(response.prompt, heard, heard_valid)
  per_row = response.targets.shape[1]
  hidden = model.read(x, seen, how.remat, response.prefix, per_row)
  index = response.index.reshape(rows, -1, 1)
  logits = model.llama.logits(jnp.take_along_axis(hidden, index, axis=1))
  targets, weight = (x.reshape(rows, -1) for x in (response.targets, response.weight))
  loss = nll = losses.cross_entropy(logits, targets, weight)
  parts = {'response_nll': nll}
  if how.kl_weight:
    shape = (*index.shape[:2], response.top_ids.shape[-1])
    teacher = response.top_ids.reshape(shape), response.top_log_probs.reshape(shape)
    kl = losses.top_k_kl(logits, *teacher, weight, how.kl_temperature)
    loss += how.kl_weight * kl
    parts['kl'] = kl
  if how.ctc_weight and isinstance(model.adapter, CTCAdapter):
    auxiliary, ctc_parts = ctc_loss(model, sound, key, encoder_trains=encoder_trains)
    loss += how.ctc_weight * auxiliary
    parts |= ctc_parts
  return loss, parts


@functools.partial(
  jax.jit, static_argnames=('graphdef', 'optimizer', 'loss'), donate_argnames='state'
)
def train_step(state: TrainState, batch, key, frozen, *, graphdef, optimizer, loss):
  """One update; returns the new state and the metrics of this step."""

  def of(trainable):
    return loss(nnx.merge(graphdef, trainable, frozen), batch, key)

  (value, parts), gradient = jax.value_and_grad(of, has_aux=True)(state.trainable)
  gradient = constrain_like_parameters(gradient)
  update, opt = optimizer.update(
    gradient, state.optimizer, state.trainable, value=value
  )
  trainable = optax.apply_updates(state.trainable, update)
  metrics = {'loss': value, 'grad_norm': optax.tree.norm(gradient), **parts}
  return constrain_like_parameters(
    TrainState(trainable, opt)
  ), metrics | spikes.skipped_metric(opt)
