# SPDX-License-Identifier: Apache-2.0
"""A config's models and batches as shapes: no weights, no data, no tokenizer.

What depends on a corpus or a tokenizer comes from `ASSUMPTIONS`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from acl_jax import build, build_adapter, lora
from acl_jax.batches.arrays import AudioBatch, PretrainBatch, ResponseBatch
from acl_jax.batches.responses import LENGTH_STEP
from acl_jax.config.experiment import Experiment, TrainConfig
from acl_jax.config.sections import (
  DataConfig,
  EncoderConfig,
  LLMConfig,
  PretrainEncoderConfig,
  WhisperEncoderConfig,
)
from acl_jax.config.stages import ResponseStageConfig
from acl_jax.models import llama
from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.lora import LoRAConfig
from acl_jax.models.protocols import Encoder
from acl_jax.models.quantisation import is_quantised, quantise
from acl_jax.models.speech_llm import Prompt, SpeechLLM
from acl_jax.models.whisper import Whisper, WhisperConfig
from acl_jax.runtime.rounding import round_up
from data_pipeline.audio import SAMPLE_RATE
from data_pipeline.features import Frontend

# Lengths of Multilingual LibriSpeech's utterances and of Llama-2's prompts for them.
ASSUMPTIONS = {
  'mean_seconds': 15.0,
  'longest_seconds': 20.0,
  'prefix_tokens': 8,  # before the audio, shared by all prompts
  'suffix_tokens': 8,  # after the audio
}


class BatchShape(NamedTuple):
  """The shape of a batch.

  Attributes:
    rows: Rows of the batch, empty ones included.
    frames: Encoder frames of a row.
    tokens: LLM tokens of a row.
    max_utterance_frames: Limit on the encoder frames of an utterance.
    max_utterances: Limit on the utterances of a row.
  """

  rows: int
  frames: int
  tokens: int
  max_utterance_frames: int
  max_utterances: int


def encoder_shapes(config: EncoderConfig | PretrainEncoderConfig) -> Encoder:
  """Return the encoder as shapes, from its sizes or, without these, from its files."""
  if config.sizes is None:
    return to_shapes(build.load_encoder(config))
  sizes = config.sizes
  if isinstance(config, WhisperEncoderConfig) and config.sizes is not None:
    sizes = config.configure(config.sizes)
  create = {WhisperConfig: Whisper, ConformerConfig: Conformer}[type(sizes)]
  return jax.eval_shape(lambda: create(sizes, rngs=nnx.Rngs(0)))


def llama_shapes(config: LLMConfig) -> llama.Llama:
  """Return the LLM as shapes in the config's dtype, from its sizes or its files."""
  if (sizes := config.sizes) is None:
    return to_shapes(build.load_frozen_llama(config))
  dtype, quantised = jnp.dtype(config.dtype), is_quantised(config.dtype)
  compute_dtype = jnp.bfloat16 if quantised else dtype

  def create() -> llama.Llama:
    model = llama.Llama(sizes, rngs=nnx.Rngs(0))
    model = jax.tree.map(lambda x: x.astype(compute_dtype), model)
    return quantise(model, dtype) if quantised else model

  return jax.eval_shape(create)


def speech_llm_shapes(config: TrainConfig) -> SpeechLLM:
  """Return the whole model as shapes; a CTC adapter has the LLM's vocabulary."""
  encoder, llm = encoder_shapes(config.encoder), llama_shapes(config.llama)
  sizes = build_adapter.adapter_sizes(
    config.adapter,
    encoder.config.output_size,
    llm.config.hidden_size,
    llm.config.vocab_size,
  )
  create, _ = build_adapter.ADAPTERS[config.adapter.kind]
  adapter = jax.eval_shape(lambda: create(sizes, rngs=nnx.Rngs(0)))
  encoder = _wrap_encoder(encoder, config.encoder.lora)
  adapter = lora.wrapped_shapes(lora.ADAPTER, adapter, config.adapter.lora)
  llm = lora.wrapped_shapes(lora.LLAMA, llm, config.llama.lora)
  return SpeechLLM(encoder, adapter, llm)


def _wrap_encoder(encoder: Any, updates: LoRAConfig | None) -> Encoder:
  if encoder.tower is encoder:
    return lora.wrapped_shapes(lora.ENCODER, encoder, updates)
  encoder.encoder = lora.wrapped_shapes(lora.ENCODER, encoder.encoder, updates)
  return encoder  # with a CTC head


def response_config(config: TrainConfig) -> ResponseStageConfig:
  """Return the response stage, which is planned; ValueError if there is none."""
  if config.response is None:
    raise ValueError('config.response is None: there is no step of it to plan')
  return config.response


def to_shapes(tree):
  """Replace the arrays of a tree by their shapes."""
  return jax.eval_shape(lambda: tree)


def batch_shape(
  config: Experiment,
  frames_per_batch: int,
  stack: int,
  encoder: ConformerConfig | WhisperConfig,
) -> BatchShape:
  """Return the shape of a stage's batches; with buckets, that of the longest bucket.

  Args:
    config: The config.
    frames_per_batch: Encoder frames of a batch.
    stack: Encoder frames that the adapter turns into one embedding.
    encoder: Sizes of the encoder.
  """
  data = config.data
  length = data.max_frames

  def num_frames(seconds: float) -> int:
    samples = round(seconds * SAMPLE_RATE)
    return Frontend.of(encoder).num_frames(samples) // encoder.subsampling

  max_frames = min(length, num_frames(ASSUMPTIONS['longest_seconds']))
  if data.row_frames is None:
    trains_llm = isinstance(config, TrainConfig)
    response_tokens = config.targets.max_new_tokens if trains_llm else 0
    tokens = -(-length // stack) + ASSUMPTIONS['suffix_tokens'] + response_tokens
    tokens = round_up(tokens, LENGTH_STEP)
    return BatchShape(frames_per_batch // length, length, tokens, length, 1)
  mean_frames = num_frames(ASSUMPTIONS['mean_seconds'])
  max_utterances = max(1, int(1.5 * length / mean_frames))
  tokens = (data.row_tokens or 0) if isinstance(data, DataConfig) else 0
  rows = frames_per_batch // length
  return BatchShape(rows, length, tokens, max_frames, max_utterances)


def _int_array(*shape: int) -> Any:
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def _float_array(*shape: int, dtype=jnp.float32) -> Any:
  return jax.ShapeDtypeStruct(shape, dtype)


def audio_shapes(shape: BatchShape, encoder: Encoder, trains: bool):
  """Return shapes of a batch's frames, their segment ids and their indices.

  The frames are log-mel frames if the encoder trains, otherwise encoder frames.
  """
  subsampling = encoder.config.subsampling if trains else 1
  width = encoder.config.num_mel_bins if trains else encoder.config.output_size
  rows = (shape.rows, shape.frames * subsampling)
  index = (shape.rows, shape.max_utterances, shape.max_utterance_frames)
  return _float_array(*rows, width), _int_array(*rows), _int_array(*index)


def response_batch(
  config: TrainConfig, model: SpeechLLM, shape: BatchShape
) -> tuple[AudioBatch | ResponseBatch, ...]:
  """Return the shapes of a batch of the response stage of `train`.

  They are those of its audio, its responses and, if any, the student's answers.
  """
  utterances = (shape.rows, shape.max_utterances)
  slots = -(-shape.max_utterance_frames // model.adapter.config.stack)
  candidates = 0
  if model.adapter.recognises:
    candidates = min(config.sampled_classes, model.adapter.config.vocabulary_size)
  audio = AudioBatch(
    *audio_shapes(shape, model.encoder, config.encoder.is_trained),
    labels=_int_array(*utterances, slots),
    letters=_int_array(*utterances, 2 * slots),
    candidates=_int_array(candidates),
    logit_correction=_float_array(candidates + 1),
  )
  stage = response_config(config)
  top_k = config.targets.top_k if stage.kl_weight else 0
  batch = audio, _responses(shape, config.targets.max_new_tokens, top_k)
  if stage.on_policy is None:
    return batch
  limit = stage.on_policy.max_new_tokens
  return *batch, _responses(shape, limit, config.targets.top_k)


def _responses(shape: BatchShape, max_new_tokens: int, top_k: int) -> ResponseBatch:
  tokens = (shape.rows, shape.tokens)
  responses = (shape.rows, shape.max_utterances, max_new_tokens)
  return ResponseBatch(
    shared_prefix=_int_array(ASSUMPTIONS['prefix_tokens']),
    prompt=Prompt(_int_array(*tokens), _int_array(*tokens), _int_array(*tokens)),
    targets=_int_array(*responses),
    index=_int_array(*responses),
    weight=_float_array(*responses),
    top_ids=_int_array(*responses, top_k),
    top_log_probs=_float_array(*responses, top_k, dtype=jnp.float16),
  )


def pretrain_batch(
  shape: BatchShape, encoder: Encoder, letters_per_frame: int
) -> PretrainBatch:
  """Return the shapes of a batch of `pretrain`."""
  labels, letters = (
    _int_array(shape.rows, shape.max_utterances, shape.max_utterance_frames * per_frame)
    for per_frame in (1, letters_per_frame)
  )
  return PretrainBatch(*audio_shapes(shape, encoder, trains=True), labels, letters)
