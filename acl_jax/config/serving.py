# SPDX-License-Identifier: Apache-2.0
"""The config section of the server."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ServeConfig:
  """The server: sizes, which determine every compiled shape, and limits."""

  slots: int = 8  # replies that are decoded at once
  context: int = 2_048  # tokens of a conversation with its reply, at most
  cached_tokens: int = 16_384  # whose keys and values are kept, in use or not
  max_queue: int = 64  # requests that wait for a slot; more are refused with 429
  max_new_tokens: int = 512  # of a reply whose request has no limit
  max_audio_seconds: float = 300.0  # of all clips of a request together
  max_body_bytes: int = 32 << 20  # of a request; base64 is 4/3 of its audio
  voice: str = ''  # '': piper; none; or a program from a line of text to wav
  grace_seconds: float = 20.0  # for replies in progress when the server is stopped

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      least = 0 if field.name == 'grace_seconds' else 1
      if field.name != 'voice' and not least <= value < float('inf'):
        raise ValueError(f'{field.name} is {value}; it must be at least {least}')
    if self.cached_tokens < self.context:
      raise ValueError(
        f'cached_tokens is {self.cached_tokens}; it must be at least the context of'
        f' {self.context}'
      )
