# SPDX-License-Identifier: Apache-2.0
"""What a response step costs per token that the LLM reads, in units of N, the
parameters of an LLM layer: 2 forward and 2 for the inputs' gradient, plus attention.

  .venv/bin/python benchmarks/flops.py

Shapes only: nothing is allocated, compiled or run. The last line printed is JSON.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from flax import nnx

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.models import adapters, llama, whisper
from acl_jax.models.speech_llm import Prompt, SpeechLLM
from acl_jax.tpu.planning.flops import count, parameters_of_layer
from acl_jax.training import step

_REMAT = flags.DEFINE_enum('remat', None, sorted(llama.REMAT), 'None keeps everything')


class Sizes(NamedTuple):
  """The step's shapes."""

  width: int = 4_096
  wide: int = 11_008
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
    """Llama-2-7B's layer, some of them."""
    return llama.LlamaConfig(
      vocab_size=self.vocabulary,
      hidden_size=self.width,
      intermediate_size=self.wide,
      num_hidden_layers=layers,
      num_attention_heads=self.heads,
      num_key_value_heads=self.key_value_heads,
      head_dim=self.width // self.heads,
      rope_theta=1e4,
      rms_norm_eps=1e-5,
      tie_word_embeddings=False,
      max_position_embeddings=4_096,
    )


def model(sizes: Sizes, layers: int) -> SpeechLLM:
  """An LLM of few layers behind the projector of Ultravox."""
  rngs = nnx.Rngs(0)
  encoder = whisper.WhisperConfig(
    80, sizes.encoder_width, 1, 1, sizes.encoder_width, 1_500
  )
  adapter = adapters.StrideAdapterConfig(
    sizes.stack, sizes.encoder_width, sizes.width // 2, sizes.width
  )
  return SpeechLLM(
    whisper.Whisper(encoder, rngs=rngs),
    adapters.StrideAdapter(adapter, rngs=rngs),
    llama.Llama(sizes.llama(layers), rngs=rngs),
  )


def batch(sizes: Sizes) -> tuple[AudioBatch, ResponseBatch]:
  """A batch's shapes, one recording a row."""

  def of(dtype) -> Callable[..., Any]:
    return functools.partial(jax.ShapeDtypeStruct, dtype=dtype)

  whole, real = of(jnp.int32), of(jnp.float32)
  heard, read = (sizes.rows, sizes.frames), (sizes.rows, sizes.length)
  said = (sizes.rows, 1, sizes.response)
  sound = AudioBatch(
    frames=real((*heard, sizes.encoder_width)),
    segment_ids=whole(heard),
    frame_index=whole((sizes.rows, 1, sizes.frames)),
    labels=whole((sizes.rows, 1, 2)),
    letters=whole((sizes.rows, 1, 2)),  # from here on the CTC stage's; not used here
    candidates=whole((1,)),
    logit_correction=real((2,)),
  )
  response = ResponseBatch(
    prefix=whole((0,)),
    prompt=Prompt(tokens=whole(read), audio_index=whole(read), segment_ids=whole(read)),
    targets=whole(said),
    index=whole(said),
    weight=real(said),
    top_ids=whole((*said, 0)),
    top_log_probs=real((*said, 0)),
  )
  return sound, response


def optimizer(trainable, masked: bool) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm; masked, only the adapter is updated."""
  adam = optax.adamw(1e-3)
  if masked:
    labels = jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, trainable)
    frozen = optax.set_to_zero()
    adam = optax.partition(
      {'adapter': adam, 'encoder': frozen, 'llama': frozen}, labels
    )
  return optax.chain(optax.clip_by_global_norm(1.0), adam)


def flops(sizes: Sizes, layers: int, *, masked: bool, remat: str | None) -> float:
  """Floating-point operations of one `train_step`, by XLA's count before optimising."""
  structure: list[Any] = []

  def arrays():
    what = nnx.Param if masked else step.trainable_filter(encoder_trains=False)
    graphdef, *states = nnx.split(model(sizes, layers), what, ...)
    structure.append(graphdef)
    return states

  trainable, frozen = jax.eval_shape(arrays)
  adam = optimizer(trainable, masked)
  state = step.TrainState(trainable, jax.eval_shape(adam.init, trainable))
  how = step.ResponseLossConfig(
    kl_weight=0.0, kl_temperature=1.0, ctc_weight=0.0, remat=remat
  )
  loss = functools.partial(step.response_loss, encoder_trains=False, how=how)
  key = jax.eval_shape(lambda: jax.random.key(0))
  still = dict(graphdef=structure[0], optimizer=adam, loss=loss)
  return count(lambda: step.train_step.lower(state, batch(sizes), key, frozen, **still))


def flops_per_token_over_n(
  sizes: Sizes, *, masked: bool = False, remat: str | None = None
) -> float:
  """What one more LLM layer costs per token, divided by its parameters.

  masked: everything is differentiated, and what is frozen gets no update afterwards.
  """
  three, two = (flops(sizes, n, masked=masked, remat=remat) for n in (3, 2))
  n = parameters_of_layer(sizes.llama(1))
  return (three - two) / (sizes.rows * sizes.length) / n


def main(_):
  """Counts both ways and prints the result."""
  frozen, masked = (
    flops_per_token_over_n(Sizes(), masked=masked, remat=_REMAT.value)
    for masked in (False, True)
  )
  print(
    json.dumps(
      {
        'flops_per_llm_token_over_n': round(frozen, 4),
        'if_masked_instead_of_frozen': round(masked, 4),
        'remat': _REMAT.value,
      }
    )
  )


if __name__ == '__main__':
  app.run(main)
