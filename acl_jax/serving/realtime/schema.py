# SPDX-License-Identifier: Apache-2.0
"""What a client may send: events, items and settings, each with its limits.

Names are those of OpenAI's Realtime API. Unknown fields are ignored, as a newer client
may send them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from acl_jax.serving.realtime.errors import ClientError

MAX_EVENT_BYTES = 15 << 20
MAX_TEXT = 1 << 17  # characters of one text
MAX_PARTS = 64  # parts of one item
MAX_TOKENS = 1 << 20

Id = Annotated[str, Field(min_length=1, max_length=512)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Modalities = Annotated[list[Literal['text', 'audio']], Field(min_length=1)]
OutputTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)] | Literal['inf']
NoTools = Annotated[list[Any], Field(max_length=0)]  # the model calls none


class Schema(BaseModel):
  """Numbers are not read from texts; unknown fields are ignored."""

  model_config = ConfigDict(extra='ignore', strict=True)


class Part(Schema):
  """A part of an item: text, or audio in the format of the session."""

  type: Literal['input_text', 'input_audio', 'output_text', 'text']
  text: Text | None = None
  audio: str | None = None


class Message(Schema):
  """A message, the one kind of item there is."""

  id: Id | None = None
  type: Literal['message']
  role: Literal['system', 'user', 'assistant']
  content: Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]


class Reference(Schema):
  """An item of the conversation, by its id."""

  id: Id
  type: Literal['item_reference']


class PCM(Schema):
  """16-bit mono samples, little-endian."""

  type: Literal['audio/pcm'] = 'audio/pcm'
  rate: Literal[16_000, 24_000] = 24_000


class OutputPCM(Schema):
  """What the voice speaks."""

  type: Literal['audio/pcm'] = 'audio/pcm'
  rate: Literal[24_000] = 24_000


class ServerVAD(Schema):
  """When a turn begins and ends, in milliseconds and as a probability of speech."""

  type: Literal['server_vad'] = 'server_vad'
  threshold: float = Field(default=0.5, ge=0, le=1)
  prefix_padding_ms: int = Field(default=300, ge=0, le=5_000)
  silence_duration_ms: int = Field(default=500, ge=32, le=10_000)
  create_response: bool = True
  interrupt_response: bool = True


class AudioInput(Schema):
  """What is heard, and who says when a turn ends; None is the client."""

  format: PCM = PCM()
  turn_detection: ServerVAD | None = ServerVAD()


class AudioOutput(Schema):
  """What is spoken; there is one voice."""

  format: OutputPCM = OutputPCM()


class AudioSettings(Schema):
  """Both directions."""

  input: AudioInput = AudioInput()
  output: AudioOutput = AudioOutput()


class Settings(Schema):
  """What `session.update` changes."""

  type: Literal['realtime'] = 'realtime'
  output_modalities: Modalities = ['audio']
  instructions: Text = ''
  max_output_tokens: OutputTokens = 'inf'
  tools: NoTools = []
  audio: AudioSettings = AudioSettings()

  def updated(self, changes: dict[str, Any]) -> 'Settings':
    """Return the settings with what `changes` has; ValidationError if invalid."""
    return Settings.model_validate(_merge(self.model_dump(), changes))


def _merge(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
  """Replace what `changes` has; what both have as objects is merged."""
  merged = dict(settings)
  for key, value in changes.items():
    if isinstance(value, dict) and isinstance(settings.get(key), dict):
      value = _merge(settings[key], value)
    merged[key] = value
  return merged


class ResponseOptions(Schema):
  """What `response.create` overrides for one response."""

  instructions: Text | None = None
  output_modalities: Modalities | None = None
  max_output_tokens: OutputTokens | None = None
  conversation: Literal['auto', 'none'] = 'auto'
  input: Annotated[list[Message | Reference], Field(max_length=MAX_PARTS)] | None = None
  metadata: dict[Id, Text] | None = Field(default=None, max_length=16)
  tools: NoTools = []


class ClientEvent(Schema):
  """Any event; the fields of its type are in a subclass."""

  event_id: Id | None = None


class SessionUpdate(ClientEvent):
  """Changes of the settings, as objects within objects."""

  session: dict[str, Any]


class AudioAppend(ClientEvent):
  """Audio in base64."""

  audio: str


class ItemCreate(ClientEvent):
  """An item and its place."""

  item: Message
  previous_item_id: Id | None = None


class ItemName(ClientEvent):
  """Which item it is about."""

  item_id: Id


class ItemTruncate(ItemName):
  """How much of its audio was played."""

  content_index: int = Field(ge=0)
  audio_end_ms: int = Field(ge=0)


class ResponseCreate(ClientEvent):
  """What to answer, and how."""

  response: ResponseOptions | None = None


class ResponseCancel(ClientEvent):
  """Which response; by default the one in progress."""

  response_id: Id | None = None


EVENTS: dict[str, type[ClientEvent]] = {
  'session.update': SessionUpdate,
  'input_audio_buffer.append': AudioAppend,
  'input_audio_buffer.commit': ClientEvent,
  'input_audio_buffer.clear': ClientEvent,
  'conversation.item.create': ItemCreate,
  'conversation.item.delete': ItemName,
  'conversation.item.retrieve': ItemName,
  'conversation.item.truncate': ItemTruncate,
  'response.create': ResponseCreate,
  'response.cancel': ResponseCancel,
}

_OBJECT = TypeAdapter(dict[str, Any])


def parse_json(data: str | bytes) -> dict[str, Any]:
  """Return the object that a frame holds; ClientError for anything else."""
  if len(data) > MAX_EVENT_BYTES:
    raise ClientError(
      f'the event has {len(data)} bytes; the limit is {MAX_EVENT_BYTES}',
      'event_too_large',
    )
  try:
    return _OBJECT.validate_json(data)
  except ValidationError as error:
    message = error.errors(include_url=False, include_input=False)[0]['msg']
    raise ClientError(
      f'the event is not a JSON object: {message}', 'invalid_json'
    ) from None


def parse_event(event: dict[str, Any]) -> tuple[str, ClientEvent]:
  """Return the type and the fields of an event; ClientError if it is not one."""
  kind = event.get('type')
  if not isinstance(kind, str) or kind not in EVENTS:
    shown = repr(kind)[:80]
    raise ClientError(
      f'no event has the type {shown}; known: {", ".join(EVENTS)}', param='type'
    )
  try:
    return kind, EVENTS[kind].model_validate(event)
  except ValidationError as error:
    raise as_client_error(error) from None


def as_client_error(error: ValidationError, prefix: str = '') -> ClientError:
  """Return the first fault of an event, with the field it is about."""
  fault = error.errors(include_url=False, include_input=False)[0]
  param = '.'.join(map(str, (*([prefix] if prefix else []), *fault['loc'])))
  code = 'missing_field' if fault['type'] == 'missing' else 'invalid_value'
  return ClientError(f'{param}: {fault["msg"]}', code, param)
