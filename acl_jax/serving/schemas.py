# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests, as OpenAI's API defines them, and what of them is refused.

Fields that change nothing about the answer are accepted and ignored. Fields that would
change it, and are not supported, are refused unless they have their neutral value.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
  BaseModel,
  ConfigDict,
  Field,
  StringConstraints,
  field_validator,
  model_validator,
)

MAX_CHOICES = 4
MAX_TOP_TOKENS = 20
MAX_MESSAGES = 1_000
MAX_PARTS = 1_000  # of a message
MAX_SPOKEN = 4_096  # characters

Name = Annotated[str, StringConstraints(max_length=256)]
Ignored = Any


class _Body(BaseModel):
  """A body without unknown fields.

  unsupported: fields that are refused, and the values that they may have nevertheless.
  """

  model_config = ConfigDict(extra='forbid', hide_input_in_errors=True)
  unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {}

  @model_validator(mode='before')
  @classmethod
  def _refuse_unsupported(cls, values: Any) -> Any:
    if not isinstance(values, dict):
      return values
    kept = dict(values)
    for name, neutral in cls.unsupported.items():
      value = kept.pop(name, None)
      if value is not None and not any(
        value == x and isinstance(value, bool) == isinstance(x, bool) for x in neutral
      ):
        raise ValueError(f'{name} is not supported by this server; leave it out')
    return kept


class InputAudio(_Body):
  """A recording: base64, in a container that is recognised by its first bytes."""

  data: str
  format: Literal['wav', 'mp3', 'flac', 'ogg', 'opus', 'webm', 'm4a', 'mp4']


class TextPart(_Body):
  """Text of a message."""

  type: Literal['text']
  text: str


class RefusalPart(_Body):
  """Text of an assistant's message."""

  type: Literal['refusal']
  refusal: str


class AudioPart(_Body):
  """Audio of a message."""

  type: Literal['input_audio']
  input_audio: InputAudio


PART_KINDS = ('text', 'input_audio', 'refusal')
Part = Annotated[TextPart | AudioPart | RefusalPart, Field(discriminator='type')]


class SpokenReference(BaseModel):
  """An earlier reply that was spoken, by its id."""

  id: Name


class Message(_Body):
  """A message of a conversation."""

  unsupported = {'tool_calls': ([],), 'function_call': (), 'tool_call_id': ()}
  role: Literal['system', 'developer', 'user', 'assistant']
  content: Annotated[list[Part], Field(max_length=MAX_PARTS)] = []
  audio: SpokenReference | None = None
  name: Name | None = None
  refusal: Ignored = None
  annotations: Ignored = None
  reasoning_content: Ignored = None

  @field_validator('content', mode='before')
  @classmethod
  def _as_parts(cls, value: Any) -> Any:
    if isinstance(value, str):
      return [{'type': 'text', 'text': value}]
    return [] if value is None else value


class SpokenOutput(_Body):
  """How to speak a reply. The server has one voice, whatever its name."""

  voice: Ignored = None
  format: Literal['wav', 'mp3', 'flac', 'opus', 'pcm16'] = 'wav'


class StreamOptions(_Body):
  """What a stream contains besides the reply."""

  include_usage: bool = False
  include_obfuscation: Ignored = None


class ChatRequest(_Body):
  """The body of /v1/chat/completions."""

  unsupported = {
    'tools': ([],),
    'tool_choice': ('none', 'auto'),
    'functions': ([],),
    'function_call': ('none', 'auto'),
    'response_format': ({'type': 'text'},),
    'logit_bias': ({},),
    'frequency_penalty': (0,),
    'presence_penalty': (0,),
    'web_search_options': (),
  }
  model: Name = ''
  messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
  modalities: Annotated[list[Literal['text', 'audio']], Field(max_length=2)] | None = (
    None
  )
  audio: SpokenOutput | None = None
  max_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
  max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
  temperature: Annotated[float, Field(ge=0, le=2)] | None = None
  top_p: Annotated[float, Field(gt=0, le=1)] | None = None
  seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
  n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
  stop: Annotated[list[Name], Field(max_length=4)] = []
  logprobs: bool | None = None
  top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_TOKENS)] | None = None
  stream: bool | None = None
  stream_options: StreamOptions | None = None
  user: Ignored = None
  store: Ignored = None
  metadata: Ignored = None
  parallel_tool_calls: Ignored = None
  prediction: Ignored = None
  prompt_cache_key: Ignored = None
  prompt_cache_retention: Ignored = None
  reasoning_effort: Ignored = None
  safety_identifier: Ignored = None
  service_tier: Ignored = None
  verbosity: Ignored = None

  @field_validator('stop', mode='before')
  @classmethod
  def _as_strings(cls, value: Any) -> Any:
    if isinstance(value, str):
      return [value]
    return [] if value is None else value

  @property
  def wants_audio(self) -> bool:
    """Whether the reply is to be spoken too."""
    return 'audio' in (self.modalities or ())

  @model_validator(mode='after')
  def _check(self) -> 'ChatRequest':
    if self.top_logprobs and not self.logprobs:
      raise ValueError('top_logprobs needs logprobs = true')
    if self.wants_audio and (self.n or 1) > 1:
      raise ValueError('n must be 1 for a reply in audio')
    is_pcm = self.audio is not None and self.audio.format == 'pcm16'
    if self.wants_audio and self.stream and not is_pcm:
      raise ValueError("audio.format must be 'pcm16' in a stream")
    return self


class SpeechRequest(_Body):
  """The body of /v1/audio/speech."""

  unsupported = {'instructions': ('',), 'speed': (1,), 'stream_format': ('audio',)}
  model: Name = ''
  input: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SPOKEN)]
  voice: Ignored = None
  response_format: Literal['mp3', 'opus', 'flac', 'wav', 'pcm'] = 'mp3'


class TranscriptionForm(_Body):
  """The fields of /v1/audio/transcriptions besides its file."""

  unsupported = {'stream': ('false',), 'chunking_strategy': ('auto',)}
  model: Name = ''
  response_format: Literal['json', 'text', 'verbose_json'] = 'json'
  granularities: list[Literal['word', 'segment']] = []
  include: list[Literal['logprobs']] = []
  language: Name = ''
  prompt: Ignored = None  # the model's own ears take no hints
  temperature: Ignored = None  # nor do they sample
