# SPDX-License-Identifier: Apache-2.0
"""Teacher-forced scores of responses: negative log-likelihood and greedy tokens."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from acl_jax.evaluation.prompt_batches import PromptBatch, PromptCase, batch_cases
from acl_jax.models.speech_llm import SpeechLLM

TOKENS_PER_BATCH = 1_024
MAX_ROWS = 8


class Score(NamedTuple):
  """Per token of one response: its negative log-likelihood, and the greedy token."""

  nll: Float[np.ndarray, ' u']  # nats
  greedy_tokens: Int[np.ndarray, ' u']


def score_cases(
  model: SpeechLLM,
  cases: Sequence[PromptCase],
  advance: Callable[[int], None] = lambda count: None,
) -> list[Score]:
  """Score the response of each case, in order; batching does not change the scores.

  Args:
    model: The speech LLM.
    cases: Prompts with responses of at least one token.
    advance: Called with the number of cases of each finished batch.
  """
  scores: dict[int, Score] = {}
  width = model.llama.config.hidden_size
  for indices, batch in batch_cases(cases, width, TOKENS_PER_BATCH, MAX_ROWS):
    nll, greedy_tokens = jax.device_get(_score_batch(model, batch))
    for row, index in enumerate(indices):
      length = len(cases[index].response)
      scores[index] = Score(nll[row, :length], greedy_tokens[row, :length])
    advance(len(indices))
  return [scores[index] for index in range(len(cases))]


@jax.jit
def _score_batch(
  model: SpeechLLM, batch: PromptBatch
) -> tuple[Float[Array, 'b u'], Int[Array, 'b u']]:
  hidden = model.hidden_states(
    *model.splice(batch.prompt, batch.audio, batch.audio_mask)
  )
  at_targets = jnp.take_along_axis(hidden, batch.target_positions[..., None], axis=1)
  logits = model.llama.logits(at_targets)
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
  return nll, jnp.argmax(logits, axis=-1)
