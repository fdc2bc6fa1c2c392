# SPDX-License-Identifier: Apache-2.0
"""Compare the response step with the same step in PyTorch and Transformers.

  .venv/bin/python benchmarks/train_step.py [--encoder=lora]

Both use the same frozen SmolLM2-135M, projector, batch, optimizer, float32 and threads,
and run in alternation. Both compute no gradients of frozen weights, and logits of the
response only. With --encoder=lora or full, Whisper's encoder trains with the projector,
in PyTorch by Transformers and PEFT. `products_ratio` is that of the matrix products of
the dense layers alone, measured in the same run. Ours processes the shared prefix once
for all rows, as training does; PyTorch processes it in every row, and so does ours for
`ratio_vs_torch_whole_rows`. The last line is JSON; a ratio above 1 means that ours is
faster.
"""

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from absl import app, flags
from flax import nnx
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax import assets
from acl_jax.config import defaults
from acl_jax.config.parsing import parse
from acl_jax.config.stages import ResponseStageConfig
from acl_jax.models import adapters
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.training import step
from acl_jax.weights.llama import load_llama, open_llama
from benchmarks.machine import print_result
from benchmarks.train_step_batch import (
  ENCODER_WIDTH,
  FRAMES,
  ROWS,
  STACK,
  make_batch,
  with_prefix_in_rows,
)
from benchmarks.train_step_encoder import (
  WHISPER,
  build_encoder,
  torch_encoder,
  with_log_mel,
)
from benchmarks.train_step_products import dense_layers, make_steps

_ENCODER = flags.DEFINE_enum(
  'encoder', 'none', ['none', 'lora', 'full'], 'what trains of the encoder'
)
_ROUNDS = flags.DEFINE_integer('rounds', 8, 'measured steps of each', lower_bound=1)

LLAMA = 'asset:smollm2-135m-instruct'
HIDDEN = 1_536  # width of the projector
LEARNING_RATE, BETAS, CLIP_NORM = 1e-5, (0.9, 0.98), 1.0


def our_step(
  path: Path, adapter: adapters.StrideAdapter, batch, trains: str
) -> Callable[[], float]:
  """Return our step; a call is one update and returns the loss before it."""
  model = SpeechLLM(
    build_encoder(trains),
    jax.tree.map(jnp.copy, adapter),  # the step donates its parameters
    load_llama(path, jnp.float32),
  )
  graphdef, trainable, frozen = nnx.split(model, step.trainable_filter(trains), ...)
  optimizer = optax.chain(
    optax.clip_by_global_norm(CLIP_NORM),
    optax.adamw(LEARNING_RATE, *BETAS, weight_decay=0.0),
  )
  stage = parse(ResponseStageConfig, defaults.response_stage().to_dict())
  loss = functools.partial(
    step.response_loss, encoder_trains=trains != 'none', stage=stage
  )
  state = step.TrainState(trainable, optimizer.init(trainable))
  batch, key = jax.device_put(batch), jax.random.key(0)

  def update() -> float:
    nonlocal state
    state, metrics = step.train_step(
      state, batch, key, frozen, graphdef=graphdef, optimizer=optimizer, loss=loss
    )
    return float(metrics['loss'])

  return update


class Projector(torch.nn.Module):
  """`adapters.StrideAdapter` in PyTorch, with the same parameters."""

  def __init__(self, adapter: adapters.StrideAdapter):
    super().__init__()
    self.weights = torch.nn.ParameterDict(
      {
        name: torch.tensor(np.asarray(getattr(adapter, name)[...]))
        for name in ('ln_pre', 'linear_1', 'ln_mid', 'linear_2')
      }
    )

  def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    w = self.weights
    x = torch.where(mask[..., None], frames, 0)
    x = x.reshape(len(x), -1, STACK * ENCODER_WIDTH)
    x = F.rms_norm(x, x.shape[-1:], w['ln_pre'], adapters.EPS) @ w['linear_1']
    x, gate = x.chunk(2, dim=-1)
    x = x * F.silu(gate)
    return F.rms_norm(x, x.shape[-1:], w['ln_mid'], adapters.EPS) @ w['linear_2']


def torch_step(
  path: Path, adapter: adapters.StrideAdapter, batch, trains: str
) -> Callable[[], float]:
  """Return the same step in PyTorch."""
  encoder = None if trains == 'none' else torch_encoder(trains).eval()
  transformers_logging.disable_progress_bar()
  llama = LlamaForCausalLM.from_pretrained(
    path.parent,
    gguf_file=path.name,
    dtype=torch.float32,
    attn_implementation='sdpa',
  )
  llama = llama.requires_grad_(False).eval()
  projector = Projector(adapter)
  parameters = [*projector.parameters()]
  if encoder is not None:
    parameters += [x for x in encoder.parameters() if x.requires_grad]
  optimizer = torch.optim.AdamW(
    parameters, LEARNING_RATE, BETAS, weight_decay=0.0, fused=True
  )
  audio_batch, response = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), batch)
  prompt, targets = response.prompt, response.targets
  index, frame_mask = response.index[:, 0].long(), audio_batch.frame_index[:, 0] >= 0

  def loss() -> torch.Tensor:
    frames = audio_batch.frames
    if encoder is not None:
      frames = encoder(frames.swapaxes(1, 2)).last_hidden_state
    audio = projector(frames, frame_mask)
    is_audio = prompt.audio_index >= 0
    audio_index = prompt.audio_index.clamp(min=0).long()
    audio_mask = frame_mask[:, ::STACK].gather(1, audio_index)
    mask = (prompt.segment_ids > 0) & (~is_audio | audio_mask)
    audio = audio.gather(1, audio_index[..., None].expand(-1, -1, audio.shape[-1]))
    x = torch.where(is_audio[..., None], audio, llama.model.embed_tokens(prompt.tokens))
    hidden = llama.model(
      inputs_embeds=torch.where(mask[..., None], x, 0),
      attention_mask=mask.long(),
      position_ids=(mask.long().cumsum(1) - 1).clamp(min=0),
      use_cache=False,
    ).last_hidden_state
    rows = torch.arange(ROWS)[:, None]
    logits = llama.lm_head(hidden[rows, index]).flatten(0, 1)
    nll = F.cross_entropy(logits, targets.long().flatten(), reduction='none')
    weight = response.weight.flatten()
    return (nll * weight).sum() / weight.sum()

  def update() -> float:
    optimizer.zero_grad(set_to_none=True)
    value = loss()
    value.backward()
    torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    optimizer.step()
    return value.item()

  return update


def measure(steps: dict[str, Callable[[], float]], rounds: int):
  """Alternate the steps; return the seconds and losses of every round.

  The first round only warms up, so it has losses but no seconds.
  """
  seconds = {name: [] for name in steps}
  losses = {name: [] for name in steps}
  for number in range(rounds + 1):
    for name, update in steps.items():
      start = time.perf_counter()
      losses[name].append(update())
      elapsed = time.perf_counter() - start
      if number:
        seconds[name].append(elapsed)
      print(f'{number:3} {name:6} {losses[name][-1]:.5f} {elapsed:8.3f} s', flush=True)
  return seconds, losses


def main(_):
  """Measure the steps; print the ratios."""
  threads = len(os.sched_getaffinity(0))  # as many as XLA uses
  torch.set_num_threads(threads)
  path = assets.resolve(LLAMA)
  sizes = adapters.StrideAdapterConfig(STACK, ENCODER_WIDTH, HIDDEN, 576)
  adapter = adapters.StrideAdapter(sizes, rngs=nnx.Rngs(0))
  trains, batch = _ENCODER.value, make_batch(path)
  if trains != 'none':
    batch = with_log_mel(batch[0]), batch[1]
  whole_rows = batch[0], with_prefix_in_rows(batch[1])
  steps = {
    'torch': torch_step(path, adapter, whole_rows, trains),
    'ours': our_step(path, adapter, batch, trains),
    'ours_whole_rows': our_step(path, adapter, whole_rows, trains),
  }
  tokens = whole_rows[1].prompt.tokens.size
  layers = dense_layers(open_llama(path).config, tokens, WHISPER, ROWS * FRAMES, trains)
  steps['products'], steps['torch_products'] = make_steps(layers)
  seconds, losses = measure(steps, _ROUNDS.value)
  fastest = {name: min(times) for name, times in seconds.items()}
  ratio = {name: round(fastest['torch'] / fastest[name], 3) for name in fastest}
  products = fastest['torch_products'] / fastest['products']
  pairs = zip(losses['ours'], losses['torch'], strict=True)
  result = {
    'ratio_vs_torch': ratio['ours'],
    'ratio_vs_torch_whole_rows': ratio['ours_whole_rows'],
    'products_ratio': round(products, 3),
    'encoder': trains,
    'ours_seconds': round(fastest['ours'], 4),
    'torch_seconds': round(fastest['torch'], 4),
    'loss_difference': max(abs(a - b) for a, b in pairs),
    'threads': threads,
  }
  print_result(result)


if __name__ == '__main__':
  app.run(main)
