# SPDX-License-Identifier: Apache-2.0
"""The text side of a chat model: its tokenizer and its chat template."""

import dataclasses
from datetime import date
from pathlib import Path

from acl_jax.text.chat_template import ChatTemplate
from acl_jax.text.layout import Segment
from acl_jax.text.template_files import load_template
from acl_jax.text.templates import Audio, Conversation, Template, Turn
from acl_jax.text.tokenizer import Tokenizer
from acl_jax.text.tokenizers import load_tokenizer


@dataclasses.dataclass(frozen=True)
class TextFrontend:
  """Tokenizer and chat template of an LLM."""

  tokenizer: Tokenizer
  template: Template

  def prompt(self, content) -> list[Segment]:
    """Return the prompt for one user turn: a string, `Audio(0)`, or a sequence."""
    return self.conversation_prompt([Turn('user', content)])

  def conversation_prompt(self, conversation: Conversation) -> list[Segment]:
    """Return the prompt for a conversation."""
    return self.template(conversation, self.tokenizer)

  def audio_prompt(self) -> list[Segment]:
    """Return the prompt for a user turn that is one audio clip."""
    return self.prompt((Audio(0),))


def load_text_frontend(llm: Path, template: str, today: date) -> TextFrontend:
  """Load the tokenizer of an LLM and a chat template, as `load_template` takes it.

  The token with which the template ends a reply is added to those that stop one.
  """
  tokenizer = load_tokenizer(llm)
  loaded = load_template(template, llm, tokenizer, today)
  if isinstance(loaded, ChatTemplate):
    stop_ids = dict.fromkeys((*tokenizer.stop_ids, *loaded.end_ids()))
    tokenizer = dataclasses.replace(tokenizer, stop_ids=tuple(stop_ids))
  return TextFrontend(tokenizer, loaded)
