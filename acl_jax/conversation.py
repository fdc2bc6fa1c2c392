# SPDX-License-Identifier: Apache-2.0
"""A conversation with an assistant: its turns and its audio."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from acl_jax.generation.live_requests import EmbeddedClip, LiveRequest
from acl_jax.generation.sampling import Sampling
from acl_jax.text.detokenizer import Detokenizer
from acl_jax.text.templates import Audio, Turn
from data_pipeline.voice_activity import NOT_HEARD

if TYPE_CHECKING:
  from acl_jax.assistant import Assistant

MAX_NEW_TOKENS = 128

Waveform = Float[np.ndarray, ' samples']


@dataclasses.dataclass(frozen=True)
class Clip:
  """Audio within a turn: a file, or a waveform in -1..1 at 16 kHz."""

  source: str | Path | Waveform


def as_clip(clip: str | Path | Waveform | Clip) -> Clip:
  """Return a file or a waveform as a clip."""
  return clip if isinstance(clip, Clip) else Clip(clip)


class Conversation:
  """A conversation: its turns and its audio.

  A turn that fails leaves the conversation as it was. Clips are encoded once, and the
  engine reads of each turn only what is new.
  """

  def __init__(self, assistant: 'Assistant', seed: int = 0):
    self.assistant, self.turns, self._seed = assistant, [], seed
    self._clips: list[EmbeddedClip] = []

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
    needs_speech: bool = False,
  ) -> Iterator[str]:
    """Take a user turn, text and clips in any order; yield the reply as it grows.

    The turn joins the conversation once the reply is complete. With `needs_speech`, the
    reply to clips without speech is `NOT_HEARD`, and no turn is added.
    """
    clips, parts, has_speech = [*self._clips], [], []
    for part in content:
      if isinstance(part, Clip):
        parts.append(Audio(len(clips)))
        heard = self.assistant.hear(part)
        has_speech.append(heard.has_speech)
        clips.append(EmbeddedClip(heard.content, heard.embeddings))
      elif part:
        parts.append(part)
    if not parts:
      raise ValueError('the turn has neither text nor audio')
    if needs_speech and has_speech and not any(has_speech):
      yield NOT_HEARD
      return
    turns = [*self.turns, Turn('user', tuple(parts))]
    segments = self.assistant.text.conversation_prompt(turns)
    request = LiveRequest(
      [clips[part] if isinstance(part, int) else part for part in segments],
      max_new_tokens,
      Sampling(temperature),
      seed=int(np.random.SeedSequence((self._seed, len(turns))).generate_state(1)[0]),
    )
    text, reply = Detokenizer(self.assistant.text.tokenizer), ''
    for token in self.assistant.engine.stream(request):
      if piece := text.push(token.id):
        reply += piece
        yield piece
    self.turns, self._clips = [*turns, Turn('assistant', reply)], clips
