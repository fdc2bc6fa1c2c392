# SPDX-License-Identifier: Apache-2.0
"""How likely a response is after a prompt, token by token, the response being given."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from acl_jax.evaluation.rows import Case, Rows, make_batches
from acl_jax.models.speech_llm import SpeechLLM

TOKENS_PER_BATCH = 1_024
MAX_ROWS = 8


class Score(NamedTuple):
  """Of one response: what each token costs, and the token the LLM would have taken."""

  nll: Float[np.ndarray, ' u']  # nats
  best: Int[np.ndarray, ' u']


def score(
  model: SpeechLLM,
  cases: Sequence[Case],
  advance: Callable[[int], None] = lambda count: None,
) -> list[Score]:
  """The scores of the responses, in the order of the cases; batching changes nothing.

  advance: told how many cases a batch has done.
  """
  scores: dict[int, Score] = {}
  width = model.llama.config.hidden_size
  for numbers, rows in make_batches(cases, width, TOKENS_PER_BATCH, MAX_ROWS):
    nll, best = jax.device_get(_score(model, rows))
    for row, number in enumerate(numbers):
      count = len(cases[number].response)
      scores[number] = Score(nll[row, :count], best[row, :count])
    advance(len(numbers))
  return [scores[number] for number in range(len(cases))]


@jax.jit
def _score(
  model: SpeechLLM, rows: Rows
) -> tuple[Float[Array, 'b u'], Int[Array, 'b u']]:
  hidden = model.read(*model.splice(rows.prompt, rows.audio, rows.audio_mask))
  at_targets = jnp.take_along_axis(hidden, rows.index[..., None], axis=1)
  logits = model.llama.logits(at_targets)
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, rows.targets)
  return nll, jnp.argmax(logits, axis=-1)
