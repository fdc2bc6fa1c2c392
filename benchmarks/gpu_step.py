# SPDX-License-Identifier: Apache-2.0
"""The response step behind a frozen 7B LLM on one accelerator, ours and PyTorch's.

  .venv/bin/python benchmarks/gpu_step.py --dtype=bfloat16 [--torch] [--tiny]

Weights are random. Rows are full: four prompts of a quarter of a row, audio first,
which ours separates by segment ids. MFU counts 4 operations per parameter of the LLM's
layers and token, forward and the gradient of the inputs, without attention and without
what is computed twice. PyTorch (--torch) runs Transformers' Llama in bfloat16 with SDPA
on as many tokens, one causal prompt a row, for which it has its fastest kernel.
--tiny: shapes for a test, on any device. The last line is JSON; `mfu` is null on a
device whose peak is unknown.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import nnx

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.config import defaults
from acl_jax.config.parsing import parse
from acl_jax.config.stages import ResponseStageConfig
from acl_jax.models import adapters, whisper
from acl_jax.models.speech_llm import Prompt, SpeechLLM
from acl_jax.tpu.planning.flops import count_layer_parameters
from acl_jax.training import step
from benchmarks.flops import Sizes
from benchmarks.gpu_model import fastest, peaks, random_llama, share
from benchmarks.machine import print_result

PER_ROW = 4  # prompts
LAYERS = 32
FULL = Sizes(rows=8)
TINY = Sizes(24, 40, 4, 2, 50, 2, 64, 16, 32, 4, 8)
OPERATIONS = 4  # per parameter of a layer and token


def make_batch(sizes: Sizes) -> tuple[AudioBatch, ResponseBatch]:
  """Return random frames and tokens in full rows of `PER_ROW` prompts."""
  rng = np.random.default_rng(0)
  b, k, t = sizes.rows, PER_ROW, sizes.length // PER_ROW
  frames, response = sizes.frames // k, sizes.response // k
  clip = frames // sizes.stack  # embeddings of a clip

  def rows(x: np.ndarray, dtype: Any = np.int32) -> jax.Array:
    return jnp.asarray(np.broadcast_to(x, (b, *x.shape)), dtype)

  segment = np.arange(1, k + 1)
  in_prompt = np.arange(t)
  audio_index = np.where(in_prompt < clip, in_prompt, -1)
  shifted = np.where(audio_index < 0, -1, audio_index + clip * np.arange(k)[:, None])
  index = np.arange(t - response - 1, t - 1) + t * np.arange(k)[:, None]
  tokens = rng.integers(0, sizes.vocabulary, (b, k * t))
  targets = rng.integers(0, sizes.vocabulary, (b, k, response))
  shape = (b, k * frames, sizes.encoder_width)
  audio = AudioBatch(
    frames=jnp.asarray(rng.standard_normal(shape, np.float32)),
    segment_ids=rows(np.repeat(segment, frames)),
    frame_index=rows(np.arange(k * frames).reshape(k, frames)),
    labels=jnp.zeros((b, k, 2), jnp.int32),  # from here on for the CTC loss, not used
    letters=jnp.zeros((b, k, 2), jnp.int32),
    candidates=jnp.zeros(1, jnp.int32),
    logit_correction=jnp.zeros(2, jnp.float32),
  )
  prompt = Prompt(
    jnp.asarray(tokens, jnp.int32),
    rows(shifted.reshape(-1)),
    rows(np.repeat(segment, t)),
  )
  responses = ResponseBatch(
    shared_prefix=jnp.zeros(0, jnp.int32),
    prompt=prompt,
    targets=jnp.asarray(targets, jnp.int32),
    index=rows(index),
    weight=jnp.ones(targets.shape, jnp.float32),
    top_ids=jnp.zeros((*targets.shape, 0), jnp.int32),
    top_log_probs=jnp.zeros((*targets.shape, 0), jnp.float32),
  )
  return audio, responses


def our_step(sizes: Sizes, layers: int, dtype: str) -> Callable[[], float]:
  """Return our step; a call is one update and returns the loss before it."""
  rngs = nnx.Rngs(0)
  width = sizes.encoder_width
  encoder = whisper.WhisperConfig(80, width, 1, 1, width, 1_500)  # does not run
  adapter = adapters.StrideAdapterConfig(
    sizes.stack, width, sizes.width // 2, sizes.width
  )
  model = SpeechLLM(
    whisper.Whisper(encoder, rngs=rngs),
    adapters.StrideAdapter(adapter, rngs=rngs),
    random_llama(sizes.llama(layers), dtype),
  )
  graphdef, trainable, frozen = nnx.split(model, step.trainable_filter('none'), ...)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))
  stage = parse(ResponseStageConfig, defaults.response_stage(remat='dots').to_dict())
  loss = functools.partial(step.response_loss, encoder_trains=False, stage=stage)
  state = step.TrainState(trainable, optimizer.init(trainable))
  batch, key = jax.device_put(make_batch(sizes)), jax.random.key(0)

  def update() -> float:
    nonlocal state
    state, metrics = step.train_step(
      state, batch, key, frozen, graphdef=graphdef, optimizer=optimizer, loss=loss
    )
    return float(metrics['loss'])

  return update


def torch_step(sizes: Sizes, layers: int) -> Callable[[], float]:
  """Return the same amount of work in PyTorch and Transformers."""
  import torch
  from transformers import LlamaConfig, LlamaForCausalLM

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  ours = sizes.llama(layers)
  names = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers')
  names += ('num_attention_heads', 'num_key_value_heads', 'rms_norm_eps')
  config = LlamaConfig(**{name: getattr(ours, name) for name in names})
  config._attn_implementation = 'sdpa'
  with torch.device(device):
    model: Any = LlamaForCausalLM(config)
    llama = model.to(torch.bfloat16).requires_grad_(False).eval()
    projector = torch.nn.Linear(sizes.stack * sizes.encoder_width, sizes.width)
    frames = torch.randn(sizes.rows, sizes.frames, sizes.encoder_width)
    tokens = torch.randint(sizes.vocabulary, (sizes.rows, sizes.length))
    targets = tokens[:, -sizes.response :]
  optimizer = torch.optim.AdamW(projector.parameters(), 1e-4, fused=True)
  clip = sizes.frames // sizes.stack

  def update() -> float:
    optimizer.zero_grad(set_to_none=True)
    audio = projector(frames.reshape(sizes.rows, clip, -1)).to(torch.bfloat16)
    text = llama.model.embed_tokens(tokens[:, clip:])
    x = torch.cat([audio, text], dim=1)
    hidden = llama.model(inputs_embeds=x, use_cache=False).last_hidden_state
    logits = llama.lm_head(hidden[:, -sizes.response - 1 : -1]).float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
    optimizer.step()
    return loss.item()  # waits for the device

  return update


def measure(sizes: Sizes, layers: int, dtype: str, rounds: int, torch: bool) -> dict:
  """Return the figures of our step and, if `torch`, of PyTorch's."""
  tokens = sizes.rows * sizes.length
  parameters = layers * count_layer_parameters(sizes.llama(layers))
  operations = OPERATIONS * parameters * tokens
  steps = {'': our_step(sizes, layers, dtype)}
  if torch:
    steps['_torch'] = torch_step(sizes, layers)
  result: dict[str, Any] = {'figure': 'step', 'dtype': dtype, 'tokens': tokens}
  for name, update in steps.items():
    loss = update()
    if not np.isfinite(loss):
      raise FloatingPointError(f'the loss of the step{name} is {loss}')
    seconds = fastest(update, rounds)
    result[f'step_seconds{name}'] = round(seconds, 6)
    result[f'tokens_per_second{name}'] = round(tokens / seconds, 1)
    result[f'mfu{name}'] = share(operations / seconds, 0)
  if torch:
    ratio = result['step_seconds_torch'] / result['step_seconds']
    result['ratio_vs_torch'] = round(ratio, 3)
  return result | {'peak_known': peaks() is not None}


def main(argv: list[str]) -> None:
  """Measure and print."""
  del argv
  args = flags.FLAGS
  sizes, layers = (TINY, 2) if args.tiny else (FULL._replace(rows=args.rows), LAYERS)
  print_result(measure(sizes, layers, args.dtype, args.rounds, args.torch))


if __name__ == '__main__':
  # Here and not at import, because other benchmarks have flags of the same names.
  flags.DEFINE_enum('dtype', 'bfloat16', ['float32', 'bfloat16', 'int8'], 'of the LLM')
  flags.DEFINE_bool('tiny', False, 'tiny shapes, for a test')
  flags.DEFINE_bool('torch', False, 'measure PyTorch, too')
  flags.DEFINE_integer('rows', FULL.rows, 'of 1,024 tokens', lower_bound=1)
  flags.DEFINE_integer('rounds', 8, 'measured steps', lower_bound=1)
  app.run(main)
