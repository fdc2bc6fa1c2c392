# SPDX-License-Identifier: Apache-2.0
"""The text side of a chat model: its tokenizer and its chat template."""

import dataclasses
from collections.abc import Callable

from acl_jax.text.layout import Segment
from acl_jax.text.templates import Audio, Conversation, Turn
from acl_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextFrontend:
  """The LLM's text side: what it reads and writes."""

  tokenizer: Tokenizer
  template: Callable[[Conversation, Tokenizer], list[Segment]]

  def prompt(self, content) -> list[Segment]:
    """The prompt for one user turn: a string, `Audio(0)`, or several of them."""
    return self.converse([Turn('user', content)])

  def converse(self, conversation: Conversation) -> list[Segment]:
    """The prompt for a conversation so far."""
    return self.template(conversation, self.tokenizer)

  def spoken(self) -> list[Segment]:
    """The prompt for a user turn that is one recording."""
    return self.prompt((Audio(0),))
