# SPDX-License-Identifier: Apache-2.0
"""The response step, and the same step in PyTorch and Transformers, in turns.

  .venv/bin/python benchmarks/train_step.py

The same frozen SmolLM2-135M, projector, batch, optimizer, float32 and threads. Both see
to it that frozen weights get no gradient and that only the response gets logits. Ours
reads the text before the recording once for all rows, as training does; PyTorch reads
it in every row, and so do we for `ratio_vs_torch_whole_rows`. The last line printed is
JSON; a ratio above 1 means that ours is faster.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.batches.responses import split_shared_prefix
from acl_jax.models import adapters, whisper
from acl_jax.models.speech_llm import Prompt, SpeechLLM
from acl_jax.runtime.rounding import round_up
from acl_jax.text.layout import NO_AUDIO, layout_prompt
from acl_jax.text.templates import Audio, Turn, chatml
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.training import step
from acl_jax.weights.llama import load_llama
from data_pipeline.batches import BatchPlan, pad, pad_per_utterance

_ROUNDS = flags.DEFINE_integer('rounds', 8, 'measured steps of each', lower_bound=1)

LLAMA = 'asset:smollm2-135m-instruct'
ROWS, FRAMES, RESPONSE = 8, 128, 32  # as configs/smol.py has them for 2.6 s of speech
STACK, ENCODER_WIDTH, HIDDEN = 4, 512, 1_536
LEARNING_RATE, BETAS, CLIP_NORM = 1e-5, (0.9, 0.98), 1.0
ANSWERS = (
  'The capital of France is Paris.',
  'Water boils at one hundred degrees Celsius at sea level.',
  'A week has seven days, and a leap year has three hundred and sixty-six of them.',
  'Certainly! Plants make sugar from light, water and carbon dioxide; this is called'
  ' photosynthesis, and it is also where the oxygen that we breathe comes from.',
)


def example(path: Path) -> tuple[AudioBatch, ResponseBatch]:
  """A batch: noise in place of speech, real prompts and answers, no row full."""
  rng = np.random.default_rng(0)
  tokenizer, slots = load_tokenizer(path), FRAMES // STACK
  prefix, [prompt] = split_shared_prefix(
    [chatml([Turn('user', (Audio(0),))], tokenizer)]
  )
  row, batch = (
    layout_prompt(prompt, [range(slots)]),
    BatchPlan((), ROWS, FRAMES, FRAMES),
  )
  answers = [tokenizer.encode(ANSWERS[i % len(ANSWERS)]) for i in range(ROWS)]
  answers = [answer[: RESPONSE - 1] + [tokenizer.eos_id] for answer in answers]
  start = len(row.tokens)
  shape, said = (ROWS, round_up(start + RESPONSE, 8)), (ROWS, 1, RESPONSE)
  tokens = [row.tokens + answer[:-1] for answer in answers]
  valid = np.arange(FRAMES) < rng.integers(FRAMES // 2, FRAMES, (ROWS, 1))
  sound: dict[str, Any] = dict(
    segment_ids=valid.astype(np.int32),
    frame_index=np.where(valid, np.arange(FRAMES, dtype=np.int32), NO_AUDIO)[:, None],
    frames=rng.standard_normal((ROWS, FRAMES, ENCODER_WIDTH), np.float32),
    labels=np.zeros((ROWS, 1, slots), np.int32),  # from here on the CTC stage's
    letters=np.zeros((ROWS, 1, 2), np.int32),
    among=np.zeros(1, np.int32),
    logit_correction=np.zeros(2, np.float32),
  )
  read: dict[str, Any] = dict(
    tokens=pad(tokens, shape, 0, np.int32),
    audio_index=pad([row.audio_index] * ROWS, shape, NO_AUDIO, np.int32),
    segment_ids=pad([[1] * len(read) for read in tokens], shape, 0, np.int32),
  )
  answered: dict[str, Any] = dict(
    prefix=np.asarray(prefix, np.int32),
    prompt=Prompt(**read),
    targets=pad_per_utterance(
      [[answer] for answer in answers], batch, RESPONSE, 0, np.int32
    ),
    index=np.tile(np.arange(RESPONSE, dtype=np.int32) + start - 1, (ROWS, 1, 1)),
    weight=pad_per_utterance(
      [[[1] * len(a)] for a in answers], batch, RESPONSE, 0, np.float32
    ),
    top_ids=np.zeros((*said, 0), np.int32),
    top_log_probs=np.zeros((*said, 0), np.float32),
  )
  return AudioBatch(**sound), ResponseBatch(**answered)


def whole(response: ResponseBatch) -> ResponseBatch:
  """The prefix at the head of every row, as PyTorch reads it."""
  size = response.prefix.size
  heads = response.prefix, np.full(size, NO_AUDIO, np.int32), np.ones(size, np.int32)
  pairs = zip(heads, map(np.asarray, response.prompt), strict=True)
  rows = [np.concatenate([np.tile(h, (ROWS, 1)), x], axis=1) for h, x in pairs]
  after = {'prompt': Prompt._make(rows), 'index': response.index + size}
  return response._replace(prefix=response.prefix[:0], **after)


def ours(path: Path, adapter: adapters.StrideAdapter, batch) -> Callable[[], float]:
  """Our step; each call is one update and returns the loss before it."""
  unused = whisper.WhisperConfig(80, ENCODER_WIDTH, 1, 1, ENCODER_WIDTH, 1_500)
  model = SpeechLLM(
    whisper.Whisper(unused, rngs=nnx.Rngs(0)),
    jax.tree.map(jnp.copy, adapter),  # a step gives its parameters away
    load_llama(path, jnp.float32),
  )
  graphdef, trainable, frozen = nnx.split(model, step.trainable_filter(False), ...)
  optimizer = optax.chain(
    optax.clip_by_global_norm(CLIP_NORM),
    optax.adamw(LEARNING_RATE, *BETAS, weight_decay=0.0),
  )
  how = step.ResponseLossConfig(
    kl_weight=0.0, kl_temperature=1.0, ctc_weight=0.0, remat=None
  )
  loss = functools.partial(step.response_loss, encoder_trains=False, how=how)
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
  """`adapters.Stride` in PyTorch, from its parameters."""

  def __init__(self, adapter: adapters.StrideAdapter):
    super().__init__()
    self.weights = torch.nn.ParameterDict(
      {
        name: torch.tensor(np.asarray(getattr(adapter, name)[...]))
        for name in ('ln_pre', 'linear_1', 'ln_mid', 'linear_2')
      }
    )

  def forward(self, frames: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    w = self.weights
    x = torch.where(valid[..., None], frames, 0)
    x = x.reshape(len(x), -1, STACK * ENCODER_WIDTH)
    x = F.rms_norm(x, x.shape[-1:], w['ln_pre'], adapters.EPS) @ w['linear_1']
    x, gate = x.chunk(2, dim=-1)
    x = x * F.silu(gate)
    return F.rms_norm(x, x.shape[-1:], w['ln_mid'], adapters.EPS) @ w['linear_2']


def theirs(path: Path, adapter: adapters.StrideAdapter, batch) -> Callable[[], float]:
  """The same update in PyTorch."""
  transformers_logging.disable_progress_bar()
  llama = LlamaForCausalLM.from_pretrained(
    path.parent,
    gguf_file=path.name,
    dtype=torch.float32,
    attn_implementation='sdpa',
  )
  llama = llama.requires_grad_(False).eval()
  projector = Projector(adapter)
  optimizer = torch.optim.AdamW(
    projector.parameters(), LEARNING_RATE, BETAS, weight_decay=0.0, fused=True
  )
  sound, response = jax.tree.map(torch.tensor, batch)
  prompt, targets = response.prompt, response.targets
  index, heard_valid = response.index[:, 0].long(), sound.segment_ids > 0

  def loss() -> torch.Tensor:
    audio = projector(sound.frames, heard_valid)
    heard, place = prompt.audio_index >= 0, prompt.audio_index.clamp(min=0).long()
    audio_mask = heard_valid[:, ::STACK].gather(1, place)
    valid = (prompt.segment_ids > 0) & (~heard | audio_mask)
    audio = audio.gather(1, place[..., None].expand(-1, -1, audio.shape[-1]))
    x = torch.where(heard[..., None], audio, llama.model.embed_tokens(prompt.tokens))
    hidden = llama.model(
      inputs_embeds=torch.where(valid[..., None], x, 0),
      attention_mask=valid.long(),
      position_ids=(valid.long().cumsum(1) - 1).clamp(min=0),
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
    torch.nn.utils.clip_grad_norm_(projector.parameters(), CLIP_NORM)
    optimizer.step()
    return value.item()

  return update


def measure(step_of: dict[str, Callable[[], float]], rounds: int):
  """Seconds and losses of every round, the steps in turns after one to warm up."""
  seconds, losses = ({name: [] for name in step_of} for _ in range(2))
  for number in range(rounds + 1):
    for name, update in step_of.items():
      start = time.perf_counter()
      losses[name].append(update())
      elapsed = time.perf_counter() - start
      if number:
        seconds[name].append(elapsed)
      print(f'{number:3} {name:6} {losses[name][-1]:.5f} {elapsed:8.3f} s', flush=True)
  return seconds, losses


def main(_):
  """Measures and prints."""
  threads = len(os.sched_getaffinity(0))  # what XLA takes
  torch.set_num_threads(threads)
  path = assets.resolve(LLAMA)
  sizes = adapters.StrideAdapterConfig(STACK, ENCODER_WIDTH, HIDDEN, 576)
  adapter, batch = adapters.StrideAdapter(sizes, rngs=nnx.Rngs(0)), example(path)
  rows = batch[0], whole(batch[1])
  steps = {
    'torch': theirs(path, adapter, rows),
    'ours': ours(path, adapter, batch),
    'ours_whole_rows': ours(path, adapter, rows),
  }
  seconds, losses = measure(steps, _ROUNDS.value)
  fastest = {name: min(times) for name, times in seconds.items()}
  ratio = {name: round(fastest['torch'] / fastest[name], 3) for name in fastest}
  pairs = zip(losses['ours'], losses['torch'], strict=True)
  result = {
    'ratio_vs_torch': ratio['ours'],
    'ratio_vs_torch_whole_rows': ratio['ours_whole_rows'],
    'ours_seconds': round(fastest['ours'], 4),
    'torch_seconds': round(fastest['torch'], 4),
    'loss_difference': max(abs(a - b) for a, b in pairs),
    'threads': threads,
  }
  print(json.dumps(result))


if __name__ == '__main__':
  app.run(main)
