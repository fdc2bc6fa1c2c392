# SPDX-License-Identifier: Apache-2.0
"""What a response answers, and the settings it answers with."""

import dataclasses
from collections.abc import Sequence

from acl_jax.serving.realtime.items import Conversation, Item
from acl_jax.serving.realtime.schema import ResponseOptions, Settings
from acl_jax.serving.reply import ReplyOptions


@dataclasses.dataclass(frozen=True)
class Request:
  """What a response answers.

  conversation: that it becomes a part of, or None. seed: of what is drawn.
  """

  settings: Settings
  options: ResponseOptions
  items: Sequence[Item]
  conversation: Conversation | None
  seed: int

  @property
  def is_spoken(self) -> bool:
    modalities = self.options.output_modalities or self.settings.output_modalities
    return 'audio' in modalities

  @property
  def instructions(self) -> str:
    own = self.options.instructions
    return self.settings.instructions if own is None else own

  @property
  def max_output_tokens(self) -> int | str:
    return self.options.max_output_tokens or self.settings.max_output_tokens

  @property
  def reply_options(self) -> ReplyOptions:
    limit = self.max_output_tokens
    limit = limit if isinstance(limit, int) else None
    return ReplyOptions(max_new_tokens=limit, seed=self.seed)
