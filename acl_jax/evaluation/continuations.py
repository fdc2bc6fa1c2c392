# SPDX-License-Identifier: Apache-2.0
"""The likelihood of several continuations of a prompt, which is read once for all.

The continuations follow the prompt in one row. Each attends to the prompt and to
itself, and its positions continue those of the prompt.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from acl_jax.evaluation.prompt_batches import (
  PromptCase,
  PromptRows,
  group_rows,
  layout_rows,
  prompt_length,
)
from acl_jax.evaluation.scores import MAX_ROWS, TOKENS_PER_BATCH
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.rounding import round_up
from data_pipeline.batches import pad

TARGET_MULTIPLE = 16  # tokens of all continuations of a row are padded to a multiple
PADDING = -1  # the branch of a position that holds nothing

Continuations = Sequence[tuple[int, ...]]


class BranchBatch(NamedTuple):
  """A batch of prompts with their continuations.

  branches: Of each position: 0 for the prompt, from 1 for a continuation, or PADDING.
  target_positions: For each target, the position whose hidden state predicts it.
  """

  rows: PromptRows
  branches: Int[Array, 'b t']
  targets: Int[Array, 'b u']
  target_positions: Int[Array, 'b u']


def score_continuations(
  model: SpeechLLM,
  cases: Sequence[PromptCase],
  continuations: Sequence[Continuations],
) -> Iterator[tuple[int, list[float]]]:
  """Yield the index of each case and the log-likelihoods of its continuations, in nats.

  Args:
    model: The speech LLM.
    cases: Their responses are ignored.
    continuations: Of each case: token ids, at least one each.
  """
  lengths = [
    prompt_length(case) + sum(len(each) - 1 for each in group)
    for case, group in zip(cases, continuations, strict=True)
  ]
  width = model.llama.config.hidden_size
  for indices, rows in group_rows(lengths, TOKENS_PER_BATCH, MAX_ROWS):
    chosen = [continuations[i] for i in indices]
    batch = _layout([cases[i] for i in indices], chosen, rows, width)
    log_probs = np.asarray(_score(model, batch), np.float64)
    for row, (index, group) in enumerate(zip(indices, chosen, strict=True)):
      ends = np.cumsum([len(each) for each in group])
      parts = np.split(log_probs[row, : ends[-1]], ends[:-1])
      yield index, [float(part.sum()) for part in parts]


def _layout(
  cases: Sequence[PromptCase],
  continuations: Sequence[Continuations],
  rows: int,
  width: int,
) -> BranchBatch:
  tails = [[t for each in group for t in each[:-1]] for group in continuations]
  laid_out = layout_rows(cases, tails, rows, width)
  targets = [[t for each in group for t in each] for group in continuations]
  num_targets = round_up(max(map(len, targets)), TARGET_MULTIPLE)
  positions, branches = [], []
  for last, group in zip(laid_out.last.tolist(), continuations, strict=False):
    positions.append([])
    branches.append([0] * (last + 1))
    for branch, each in enumerate(group, 1):
      start = len(branches[-1])
      positions[-1] += [last, *range(start, start + len(each) - 1)]
      branches[-1] += [branch] * (len(each) - 1)
  shape = (rows, num_targets)
  return BranchBatch(
    laid_out,
    jnp.asarray(pad(branches, laid_out.prompt.tokens.shape, PADDING, np.int32)),
    jnp.asarray(pad(targets, shape, 0, np.int32)),
    jnp.asarray(pad(positions, shape, 0, np.int32)),
  )


@jax.jit
def _score(model: SpeechLLM, batch: BranchBatch) -> Float[Array, 'b u']:
  x, _ = model.splice(batch.rows.prompt, batch.rows.audio, batch.rows.audio_mask)
  mask = branch_mask(batch.branches)
  positions = jnp.maximum(jnp.sum(mask, axis=-1) - 1, 0)
  hidden, _ = model.llama(x, positions, mask)
  at_targets = jnp.take_along_axis(hidden, batch.target_positions[..., None], axis=1)
  logits = model.llama.logits(at_targets)
  return -optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)


def branch_mask(branches: Int[Array, 'b t']) -> Bool[Array, 'b t t']:
  """Return which positions each attends to: those before it of its branch, or of 0."""
  t = branches.shape[1]
  query, key = branches[:, :, None], branches[:, None, :]
  return jnp.tril(jnp.ones((t, t), bool))[None] & ((key == 0) | (key == query))
