# SPDX-License-Identifier: Apache-2.0
"""A conversation with an assistant: its turns, its audio, and the cache of both."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from acl_jax.generation.sampling import Sampling
from acl_jax.generation.session import Session
from acl_jax.text.templates import Audio, Turn

if TYPE_CHECKING:
  from acl_jax.assistant import Assistant

MAX_NEW_TOKENS = 128
TOKENS = 64  # embedded at once

Waveform = Float[np.ndarray, ' samples']


@dataclasses.dataclass(frozen=True)
class Clip:
  """Audio within a turn: a file, or a waveform in -1..1 at 16 kHz."""

  source: str | Path | Waveform


def as_clip(clip: str | Path | Waveform | Clip) -> Clip:
  """Return a file or a waveform as a clip."""
  return clip if isinstance(clip, Clip) else Clip(clip)


class Conversation:
  """A conversation: its turns, its audio, and the key/value cache of both.

  A turn that fails leaves the conversation as it was. Clips are encoded once.
  """

  def __init__(self, assistant: 'Assistant', seed: int = 0):
    self.assistant, self.turns = assistant, []
    self._clips: list[np.ndarray] = []
    self._cached: list[Any] = []  # what the session's cache holds, in order
    stop_ids = assistant.text.tokenizer.stop_ids
    self._session = Session(assistant.model.llama, assistant.context, stop_ids, seed)

  def ask(
    self, *clips: str | Path | Waveform | Clip, text: str = '', **options: Any
  ) -> str:
    """Take a user turn, the clips and then the text; return the reply."""
    return ''.join(self.stream([*map(as_clip, clips), text], **options))

  def stream(
    self,
    content: Sequence[str | Clip],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 0.0,
  ) -> Iterator[str]:
    """Take a user turn, text and clips in any order; yield the reply as it grows.

    The turn joins the conversation once the reply is complete.
    """
    clips, parts = [*self._clips], []
    for part in content:
      if isinstance(part, Clip):
        parts.append(Audio(len(clips)))
        clips.append(self.assistant.encode(part))
      elif part:
        parts.append(part)
    if not parts:
      raise ValueError('the turn has neither text nor audio')
    turns = [*self.turns, Turn('user', tuple(parts))]
    positions = self._positions(turns, clips)
    num_cached = _num_common(self._cached, positions)
    prompt, ids, shown = self._embed(positions, clips), [], ''
    tokens = self._session.stream(
      prompt, num_cached, max_new_tokens, Sampling(temperature), seed=len(self.turns)
    )
    # Until the reply is complete: an abandoned turn's clips are numbered again.
    self._cached = positions[:num_cached]
    tokenizer = self.assistant.text.tokenizer
    for token in tokens:
      ids.append(token)
      reply = tokenizer.decode(ids)
      if not reply.endswith('\N{REPLACEMENT CHARACTER}'):  # a character is complete
        yield reply[len(shown) :]
        shown = reply
    # The last token's keys and values are computed only with the one after it.
    self._cached = [*positions, *ids][:-1]
    self.turns, self._clips = [*turns, Turn('assistant', shown)], clips

  def _positions(
    self, turns: Sequence[Turn], clips: Sequence[np.ndarray]
  ) -> list[int | tuple[int, int]]:
    """Return the prompt: token ids, and (clip, index) for every audio embedding."""
    positions: list[int | tuple[int, int]] = []
    for segment in self.assistant.text.conversation_prompt(turns):
      if isinstance(segment, int):
        positions += [(segment, i) for i in range(len(clips[segment]))]
      else:
        positions += segment
    return positions

  def _embed(
    self, positions: Sequence[int | tuple[int, int]], clips: Sequence[np.ndarray]
  ) -> Float[np.ndarray, 't d']:
    """Return the embeddings of a prompt."""
    llama = self.assistant.model.llama
    ids = [p if isinstance(p, int) else 0 for p in positions]
    ids += [0] * (-len(ids) % TOKENS)
    chunks = np.asarray(ids, np.int32).reshape(-1, TOKENS)
    prompt = np.concatenate([_embed_tokens(llama, chunk) for chunk in chunks])
    for i, position in enumerate(positions):
      if not isinstance(position, int):
        prompt[i] = clips[position[0]][position[1]]
    return prompt[: len(positions)]


def _num_common(first: Sequence[Any], second: Sequence[Any]) -> int:
  """Return the length of the common prefix of two sequences."""
  return len(os.path.commonprefix([list(first), list(second)]))


@jax.jit
def _embed_tokens(llama, tokens):
  return llama.embed(tokens)
