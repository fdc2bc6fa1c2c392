# SPDX-License-Identifier: Apache-2.0
"""The text side of a chat model: its tokenizer and its chat template."""

import dataclasses
from collections.abc import Callable

from acl_jax.text.layout import Segment
from acl_jax.text.templates import Audio, Conversation, Turn
from acl_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextFrontend:
  """Tokenizer and chat template of an LLM."""

  tokenizer: Tokenizer
  template: Callable[[Conversation, Tokenizer], list[Segment]]

  def prompt(self, content) -> list[Segment]:
    """Return the prompt for one user turn: a string, `Audio(0)`, or a sequence."""
    return self.conversation_prompt([Turn('user', content)])

  def conversation_prompt(self, conversation: Conversation) -> list[Segment]:
    """Return the prompt for a conversation."""
    return self.template(conversation, self.tokenizer)

  def audio_prompt(self) -> list[Segment]:
    """Return the prompt for a user turn that is one audio clip."""
    return self.prompt((Audio(0),))
