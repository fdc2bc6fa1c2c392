# SPDX-License-Identifier: Apache-2.0
"""The batch of the response step that `train_step.py` measures, and its sizes."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.batches.responses import split_shared_prefix
from acl_jax.models.speech_llm import Prompt
from acl_jax.runtime.rounding import round_up
from acl_jax.text.layout import NO_AUDIO, PromptLayout, layout_prompt
from acl_jax.text.templates import Audio, Turn, chatml
from acl_jax.text.tokenizers import load_tokenizer
from data_pipeline.batches import BatchPlan, pad, pad_per_utterance

ROWS, FRAMES, RESPONSE = 8, 128, 32  # as in configs/smol.py for 2.6 s of speech
STACK, ENCODER_WIDTH = 4, 512
SLOTS = FRAMES // STACK  # positions of the audio in the prompt
ANSWERS = (
  'The capital of France is Paris.',
  'Water boils at one hundred degrees Celsius at sea level.',
  'A week has seven days, and a leap year has three hundred and sixty-six of them.',
  'Certainly! Plants make sugar from light, water and carbon dioxide; this is called'
  ' photosynthesis, and it is also where the oxygen that we breathe comes from.',
)


def make_batch(llama_path: Path) -> tuple[AudioBatch, ResponseBatch]:
  """Return noise in place of encoder frames, with real prompts and answers.

  No row is full.
  """
  tokenizer = load_tokenizer(llama_path)
  chat = chatml([Turn('user', (Audio(0),))], tokenizer)
  prefix, [prompt] = split_shared_prefix([chat])
  layout = layout_prompt(prompt, [range(SLOTS)])
  answers = [tokenizer.encode(ANSWERS[i % len(ANSWERS)]) for i in range(ROWS)]
  answers = [answer[: RESPONSE - 1] + [tokenizer.eos_id] for answer in answers]
  return _audio_batch(), _response_batch(prefix, layout, answers)


def _audio_batch() -> AudioBatch:
  rng = np.random.default_rng(0)
  mask = np.arange(FRAMES) < rng.integers(FRAMES // 2, FRAMES, (ROWS, 1))
  frame_index = np.where(mask, np.arange(FRAMES, dtype=np.int32), NO_AUDIO)
  frames = rng.standard_normal((ROWS, FRAMES, ENCODER_WIDTH), np.float32)
  return AudioBatch(
    frames=jnp.asarray(frames),
    segment_ids=jnp.asarray(mask, jnp.int32),
    frame_index=jnp.asarray(frame_index[:, None]),
    # The rest is used by the CTC loss only.
    labels=jnp.zeros((ROWS, 1, SLOTS), jnp.int32),
    letters=jnp.zeros((ROWS, 1, 2), jnp.int32),
    candidates=jnp.zeros(1, jnp.int32),
    logit_correction=jnp.zeros(2, jnp.float32),
  )


def _response_batch(
  prefix: Sequence[int], layout: PromptLayout, answers: Sequence[list[int]]
) -> ResponseBatch:
  plan = BatchPlan((), ROWS, FRAMES, FRAMES)
  start = len(layout.tokens)
  shape = (ROWS, round_up(start + RESPONSE, 8))
  tokens = [layout.tokens + answer[:-1] for answer in answers]
  segment_ids = [[1] * len(row) for row in tokens]
  prompt = Prompt(
    tokens=jnp.asarray(pad(tokens, shape, 0, np.int32)),
    audio_index=jnp.asarray(
      pad([layout.audio_index] * ROWS, shape, NO_AUDIO, np.int32)
    ),
    segment_ids=jnp.asarray(pad(segment_ids, shape, 0, np.int32)),
  )
  targets = [[answer] for answer in answers]
  weight = [[[1] * len(answer)] for answer in answers]
  index = jnp.arange(RESPONSE, dtype=jnp.int32) + start - 1
  return ResponseBatch(
    shared_prefix=jnp.asarray(prefix, jnp.int32),
    prompt=prompt,
    targets=jnp.asarray(pad_per_utterance(targets, plan, RESPONSE, 0, np.int32)),
    index=jnp.tile(index, (ROWS, 1, 1)),
    weight=jnp.asarray(pad_per_utterance(weight, plan, RESPONSE, 0, np.float32)),
    top_ids=jnp.zeros((ROWS, 1, RESPONSE, 0), jnp.int32),
    top_log_probs=jnp.zeros((ROWS, 1, RESPONSE, 0), jnp.float32),
  )


def with_prefix_in_rows(response: ResponseBatch) -> ResponseBatch:
  """Move the shared prefix to the start of every row, as PyTorch processes it."""
  size = response.shared_prefix.size
  prefix = Prompt(
    tokens=response.shared_prefix,
    audio_index=jnp.full(size, NO_AUDIO, jnp.int32),
    segment_ids=jnp.ones(size, jnp.int32),
  )
  rows = [
    jnp.concatenate([jnp.tile(start, (ROWS, 1)), rest], axis=1)
    for start, rest in zip(prefix, response.prompt, strict=True)
  ]
  return response._replace(
    shared_prefix=response.shared_prefix[:0],
    prompt=Prompt._make(rows),
    index=response.index + size,
  )
