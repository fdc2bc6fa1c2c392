# SPDX-License-Identifier: Apache-2.0
"""Requests to the batch engine, and its responses."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """A prompt to continue, without the engine's shared prefix.

  seed: with the engine's seed, determines what is sampled. max_new_tokens: None for the
  engine's limit.
  """

  id: str
  prompt: Sequence[int] | Float[np.ndarray, 't d']  # tokens, or embeddings
  seed: int = 0
  max_new_tokens: int | None = None


class Token(NamedTuple):
  """A token of a response.

  finish_reason: why the response ends with this token; '' if it does not.
  log_prob: the model's own, before temperature and truncation.
  top_ids, top_log_probs: the likeliest tokens at this step,
  `DecodeRules.num_top_tokens` of them.
  """

  request: Request
  id: int
  finish_reason: str
  log_prob: np.floating
  top_ids: Int[np.ndarray, ' k']
  top_log_probs: Float[np.ndarray, ' k']


@dataclasses.dataclass(frozen=True, eq=False)
class Response:
  """All tokens of a response, the stop token included.

  finish_reason: 'stop', 'length' or 'repetition'.
  """

  request: Request
  finish_reason: str
  tokens: Int[np.ndarray, ' u']
  log_probs: Float[np.ndarray, ' u']
  top_ids: Int[np.ndarray, 'u k']
  top_log_probs: Float[np.ndarray, 'u k']


def join_tokens(tokens: Sequence[Token]) -> Response:
  """Return the response that consists of these tokens."""
  return Response(
    request=tokens[-1].request,
    finish_reason=tokens[-1].finish_reason,
    tokens=np.array([token.id for token in tokens], np.int32),
    log_probs=np.array([token.log_prob for token in tokens], np.float32),
    top_ids=np.stack([token.top_ids for token in tokens]),
    top_log_probs=np.stack([token.top_log_probs for token in tokens]),
  )
