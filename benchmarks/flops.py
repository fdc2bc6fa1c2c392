# SPDX-License-Identifier: Apache-2.0
"""Operations of a response step per token of the LLM, divided by the parameters N of
an LLM layer: 2 forward and 2 for the gradient of the inputs, plus attention.

  .venv/bin/python benchmarks/flops.py

Shapes only: nothing is allocated, compiled or run. The last line printed is JSON.
"""

import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from flax import nnx

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.config import defaults
from acl_jax.config.parsing import parse
from acl_jax.config.stages import ResponseStageConfig
from acl_jax.models import adapters, llama, whisper
from acl_jax.models.layers import unroll_layers
from acl_jax.models.speech_llm import Prompt, SpeechLLM
from acl_jax.tpu.planning.flops import count_flops, count_layer_parameters
from acl_jax.training import step
from benchmarks.machine import print_result

_REMAT = flags.DEFINE_enum('remat', None, sorted(llama.REMAT), 'None keeps everything')


class Sizes(NamedTuple):
  """Shapes of the step: Llama-2-7B's layer, one utterance a row."""

  width: int = 4_096
  ffn_width: int = 11_008
  heads: int = 32
  key_value_heads: int = 32
  vocabulary: int = 32_000
  rows: int = 2
  length: int = 1_024  # tokens of a row
  response: int = 256
  frames: int = 512
  stack: int = 8
  encoder_width: int = 512

  def llama(self, layers: int) -> llama.LlamaConfig:
    """Return the config of an LLM with this many layers."""
    return llama.LlamaConfig(
      vocab_size=self.vocabulary,
      hidden_size=self.width,
      intermediate_size=self.ffn_width,
      num_hidden_layers=layers,
      num_attention_heads=self.heads,
      num_key_value_heads=self.key_value_heads,
      head_dim=self.width // self.heads,
      rope_theta=1e4,
      rms_norm_eps=1e-5,
      tie_word_embeddings=False,
      max_position_embeddings=4_096,
    )


def build_model(sizes: Sizes, layers: int) -> SpeechLLM:
  """Build an encoder, the projector of Ultravox and an LLM with few layers."""
  rngs = nnx.Rngs(0)
  encoder = whisper.WhisperConfig(
    80, sizes.encoder_width, 1, 1, sizes.encoder_width, 1_500
  )
  adapter = adapters.StrideAdapterConfig(
    sizes.stack, sizes.encoder_width, sizes.width // 2, sizes.width
  )
  model = SpeechLLM(
    whisper.Whisper(encoder, rngs=rngs),
    adapters.StrideAdapter(adapter, rngs=rngs),
    llama.Llama(sizes.llama(layers), rngs=rngs),
  )
  unroll_layers(model)  # XLA counts the body of a loop once
  return model


def batch_shapes(sizes: Sizes) -> tuple[AudioBatch, ResponseBatch]:
  """Return the shapes of a batch, one utterance a row."""
  shape: Any = jax.ShapeDtypeStruct  # stands for an array in the types of a batch
  ints = functools.partial(shape, dtype=jnp.int32)
  floats = functools.partial(shape, dtype=jnp.float32)
  frames, tokens = (sizes.rows, sizes.frames), (sizes.rows, sizes.length)
  response = (sizes.rows, 1, sizes.response)
  audio_batch = AudioBatch(
    frames=floats((*frames, sizes.encoder_width)),
    segment_ids=ints(frames),
    frame_index=ints((sizes.rows, 1, sizes.frames)),
    labels=ints((sizes.rows, 1, 2)),  # from here on for the CTC loss, not used here
    letters=ints((sizes.rows, 1, 2)),
    candidates=ints((1,)),
    logit_correction=floats((2,)),
  )
  response_batch = ResponseBatch(
    shared_prefix=ints((0,)),
    prompt=Prompt(
      tokens=ints(tokens), audio_index=ints(tokens), segment_ids=ints(tokens)
    ),
    targets=ints(response),
    index=ints(response),
    weight=floats(response),
    top_ids=ints((*response, 0)),
    top_log_probs=floats((*response, 0)),
  )
  return audio_batch, response_batch


def make_optimizer(trainable, masked: bool) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm; if `masked`, updates only the adapter."""
  adam = optax.adamw(1e-3)
  if masked:
    labels = jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, trainable)
    frozen = optax.set_to_zero()
    adam = optax.partition(
      {'adapter': adam, 'encoder': frozen, 'llama': frozen}, labels
    )
  return optax.chain(optax.clip_by_global_norm(1.0), adam)


def flops(sizes: Sizes, layers: int, *, masked: bool, remat: str | None) -> float:
  """Count the operations of one `train_step`, before XLA optimises it."""
  trainable_filter = nnx.Param if masked else step.trainable_filter('none')
  model = jax.eval_shape(lambda: build_model(sizes, layers))
  graphdef, trainable, frozen = nnx.split(model, trainable_filter, ...)
  adam = make_optimizer(trainable, masked)
  state = step.TrainState(trainable, jax.eval_shape(adam.init, trainable))
  stage = parse(ResponseStageConfig, defaults.response_stage(remat=remat).to_dict())
  loss = functools.partial(step.response_loss, encoder_trains=False, stage=stage)
  key = jax.eval_shape(lambda: jax.random.key(0))
  lowered = step.train_step.lower(
    state,
    batch_shapes(sizes),
    key,
    frozen,
    graphdef=graphdef,
    optimizer=adam,
    loss=loss,
  )
  return count_flops(lowered)


def flops_per_token_over_n(
  sizes: Sizes, *, masked: bool = False, remat: str | None = None
) -> float:
  """Return the operations of one LLM layer per token, divided by its parameters.

  masked: differentiate all parameters and mask the updates of the frozen ones.
  """
  three, two = (flops(sizes, n, masked=masked, remat=remat) for n in (3, 2))
  n = count_layer_parameters(sizes.llama(1))
  return (three - two) / (sizes.rows * sizes.length) / n


def main(_):
  """Count both variants and print the result."""
  frozen, masked = (
    flops_per_token_over_n(Sizes(), masked=masked, remat=_REMAT.value)
    for masked in (False, True)
  )
  print_result(
    {
      'flops_per_llm_token_over_n': round(frozen, 4),
      'if_masked_instead_of_frozen': round(masked, 4),
      'remat': _REMAT.value,
    }
  )


if __name__ == '__main__':
  app.run(main)
