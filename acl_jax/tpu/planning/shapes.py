# SPDX-License-Identifier: Apache-2.0
"""The parts of a config and their batches as shapes: no weights, no data, no tokenizer.

What only a corpus or a tokenizer could tell is `ASSUMED`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from acl_jax import build
from acl_jax.batches.arrays import AudioBatch, PretrainBatch, ResponseBatch
from acl_jax.batches.responses import LENGTH_STEP
from acl_jax.models import llama
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.models.int8 import quantise
from acl_jax.models.speech_llm import Encoder, Prompt, SpeechLLM
from acl_jax.models.whisper import Whisper, WhisperConfig
from acl_jax.runtime.rounding import round_up

# As the recordings of Multilingual LibriSpeech are, and Llama-2's prompts about them.
ASSUMED = {
  'mean_seconds': 15.0,
  'longest_seconds': 20.0,
  'prefix_tokens': 8,  # what every prompt begins with
  'suffix_tokens': 8,  # and ends with
}


class Layout(NamedTuple):
  """The shape of a batch: rows, encoder frames and LLM tokens of each.

  longest, per_row: encoder frames of a recording, and recordings of a row, at most.
  """

  rows: int
  frames: int
  tokens: int
  longest: int
  per_row: int


def encoder_of(config: ml_collections.ConfigDict) -> Encoder:
  """The encoder's shapes, from its sizes or, without these, from its files."""
  kind, sizes = config.encoder.kind, config.encoder.get('sizes')
  if sizes is None:
    return shapes_of(build.load_encoder(config))
  if kind == 'whisper':
    return jax.eval_shape(lambda: Whisper(WhisperConfig(**sizes), rngs=nnx.Rngs(0)))
  return jax.eval_shape(lambda: Conformer(ConformerConfig(**sizes), rngs=nnx.Rngs(0)))


def llama_of(config: ml_collections.ConfigDict) -> llama.Llama:
  """The LLM's shapes, in the config's dtype, from its sizes or from its files."""
  if (sizes := config.llama.get('sizes')) is None:
    return shapes_of(build.load_frozen_llama(config))
  dtype = jnp.dtype(config.llama.dtype)
  computes = jnp.bfloat16 if dtype == jnp.int8 else dtype

  def make() -> llama.Llama:
    model = llama.Llama(llama.LlamaConfig(**sizes), rngs=nnx.Rngs(0))
    model = jax.tree.map(lambda x: x.astype(computes), model)
    return quantise(model) if dtype == jnp.int8 else model

  return jax.eval_shape(make)


def speech_llm_of(config: ml_collections.ConfigDict) -> SpeechLLM:
  """The whole model's shapes."""
  encoder, llm = encoder_of(config), llama_of(config)
  sizes = {k: v for k, v in config.adapter.to_dict().items() if k != 'kind'}
  sizes |= {
    'encoder_size': encoder.config.output_size,
    'llm_size': llm.config.hidden_size,
  }
  if config.adapter.kind == 'stride':
    adapter = jax.eval_shape(
      lambda: StrideAdapter(StrideAdapterConfig(**sizes), rngs=nnx.Rngs(0))
    )
  else:  # it may write whatever the LLM may
    sizes['vocabulary_size'] = llm.config.vocab_size
    adapter = jax.eval_shape(
      lambda: CTCAdapter(CTCAdapterConfig(**sizes), rngs=nnx.Rngs(0))
    )
  return SpeechLLM(encoder, adapter, llm)


def shapes_of(tree):
  """A tree of arrays as one of shapes."""
  return jax.eval_shape(lambda: tree)


def layout_of(
  config: ml_collections.ConfigDict, budget: int, stack: int, second: float
) -> Layout:
  """The shape of the batches of a stage; rows in buckets are those of the longest.

  budget: encoder frames of a batch. stack: frames of an embedding. second: its frames.
  """
  data = config.data
  length = data.row_frames or max(data.buckets)
  longest = min(length, round(ASSUMED['longest_seconds'] * second))
  if data.row_frames is None:
    said = config.get('targets', {}).get('max_new_tokens', 0)
    tokens = -(-length // stack) + ASSUMED['suffix_tokens'] + said
    tokens = round_up(tokens, LENGTH_STEP)
    return Layout(budget // length, length, tokens, length, 1)
  per_row = max(1, int(1.5 * length / (ASSUMED['mean_seconds'] * second)))
  tokens = data.get('row_tokens') or 0
  return Layout(budget // length, length, tokens, longest, per_row)


def _whole(*shape: int) -> Any:
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def _real(*shape: int, dtype=jnp.float32) -> Any:
  return jax.ShapeDtypeStruct(shape, dtype)


def audio_shapes(layout: Layout, encoder: Encoder, trains: bool):
  """Log-mel frames of a batch, or encoder frames; their segments; each one's place."""
  times = encoder.config.subsampling if trains else 1
  width = encoder.config.num_mel_bins if trains else encoder.config.output_size
  row = (layout.rows, layout.frames * times)
  place = (layout.rows, layout.per_row, layout.longest)
  return _real(*row, width), _whole(*row), _whole(*place)


def response_batch(
  config: ml_collections.ConfigDict, model: SpeechLLM, layout: Layout
) -> tuple[AudioBatch, ResponseBatch]:
  """A batch of `train`'s response stage."""
  each = (layout.rows, layout.per_row)
  slots, drawn = -(-layout.longest // model.adapter.config.stack), 0
  if isinstance(model.adapter, CTCAdapter):
    drawn = min(config.ctc.sampled_classes, model.adapter.config.vocabulary_size)
  sound = AudioBatch(
    *audio_shapes(layout, model.encoder, config.encoder.trains),
    labels=_whole(*each, slots),
    letters=_whole(*each, 2 * slots),
    candidates=_whole(drawn),
    logit_correction=_real(drawn + 1),
  )
  row, said = (layout.rows, layout.tokens), (*each, config.targets.max_new_tokens)
  top_k = config.targets.top_k if config.response.kl_weight else 0
  response = ResponseBatch(
    prefix=_whole(ASSUMED['prefix_tokens']),
    prompt=Prompt(_whole(*row), _whole(*row), _whole(*row)),
    targets=_whole(*said),
    index=_whole(*said),
    weight=_real(*said),
    top_ids=_whole(*said, top_k),
    top_log_probs=_real(*said, top_k, dtype=jnp.float16),
  )
  return sound, response


def transcribed_batch(
  layout: Layout, encoder: Encoder, letters_per_frame: int
) -> PretrainBatch:
  """A batch of `pretrain`."""
  labels, letters = (
    _whole(layout.rows, layout.per_row, layout.longest * times)
    for times in (1, letters_per_frame)
  )
  return PretrainBatch(*audio_shapes(layout, encoder, trains=True), labels, letters)
