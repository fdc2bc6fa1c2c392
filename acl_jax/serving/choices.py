# SPDX-License-Identifier: Apache-2.0
"""Replies in the words of OpenAI's API: finish reasons, usage, log-probabilities."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from acl_jax.generation.live_requests import LiveToken
from acl_jax.serving.errors import APIError
from acl_jax.serving.reply import Reply, ReplyPiece
from acl_jax.text.tokenizer import Tokenizer

_MIN_LOG_PROB = -9999.0  # JSON has no infinity


def finish_reason(piece: ReplyPiece) -> str | None:
  """Return the finish reason; APIError if the reply failed."""
  if piece.finish_reason == 'error':
    raise APIError(500, 'the model failed on this reply')
  if piece.finish_reason == 'cancelled':
    raise APIError(503, 'the server is shutting down', retry_after=5)
  return piece.finish_reason or None


def usage(replies: Sequence[Reply]) -> dict[str, Any]:
  """Return the usage of a request: its prompt counts once."""
  usages = [reply.usage for reply in replies]
  prompt, new = usages[0].prompt_tokens, sum(u.completion_tokens for u in usages)
  return {
    'prompt_tokens': prompt,
    'completion_tokens': new,
    'total_tokens': prompt + new,
    'prompt_tokens_details': {'cached_tokens': usages[0].cached_tokens},
  }


class LogProbs:
  """Tokens with their log-probabilities; `num_top` alternatives of each."""

  def __init__(self, tokenizer: Tokenizer, num_top: int):
    self._num_top = num_top
    self._text = functools.cache(tokenizer.token_text)

  def content(self, tokens: Sequence[LiveToken]) -> list[dict[str, Any]]:
    """Return the entries of `logprobs.content`."""
    return [
      {
        **self._entry(token.id, token.log_prob),
        'top_logprobs': [self._entry(*pair) for pair in token.top[: self._num_top]],
      }
      for token in tokens
    ]

  def _entry(self, id: int, log_prob: float) -> dict[str, Any]:
    text = self._text(id)
    is_partial = '\N{REPLACEMENT CHARACTER}' in text  # of a character
    log_prob = float(log_prob)
    return {
      'token': text,
      'logprob': log_prob if math.isfinite(log_prob) else _MIN_LOG_PROB,
      'bytes': None if is_partial else list(text.encode()),
    }
