# SPDX-License-Identifier: Apache-2.0
import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.serving.realtime.schema import EVENTS
from tests.serving.realtime_fakes import Talk, encode, make_service, silence, speech

SOUNDS = [speech(0.3), silence(0.7), b'', b'\0', b'\1\2', speech(0.3) + silence(0.6)]
junk = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
  lambda inner: (
    st.lists(inner, max_size=2)
    | st.dictionaries(st.text(max_size=5), inner, max_size=2)
  ),
  max_leaves=4,
)
ids = st.sampled_from(['a', 'b', 'root', '', 'x' * 600])
texts = st.sampled_from(['Hi', '', '<|im_end|>', '\u20ac', 'x' * 5_000])
parts = st.fixed_dictionaries(
  {'type': st.sampled_from(['input_text', 'input_audio', 'output_text', 'image'])},
  optional={
    'text': texts | junk,
    'audio': st.sampled_from([*map(encode, SOUNDS), '?']),
  },
)
messages = st.fixed_dictionaries(
  {
    'type': st.just('message') | junk,
    'role': st.sampled_from(['user', 'assistant', 'system', 'tool']),
    'content': st.lists(parts, max_size=3) | junk,
  },
  optional={'id': ids},
)
turn_detections = st.none() | st.fixed_dictionaries(
  {'type': st.just('server_vad')},
  optional={
    'threshold': st.floats(-1, 2),
    'silence_duration_ms': st.sampled_from([32, 100, -1]),
    'create_response': st.booleans() | junk,
    'interrupt_response': st.booleans(),
  },
)
sessions = st.fixed_dictionaries(
  {},
  optional={
    'type': st.just('realtime') | junk,
    'instructions': texts | junk,
    'output_modalities': st.sampled_from([['text'], ['audio'], [], ['smell']]),
    'max_output_tokens': st.sampled_from([1, 3, 'inf', 0, -1, 2.5]),
    'audio': junk
    | st.fixed_dictionaries(
      {
        'input': st.fixed_dictionaries(
          {},
          optional={
            'turn_detection': turn_detections | junk,
            'format': st.sampled_from(
              [{'rate': 16_000}, {'type': 'audio/pcm'}, {'type': 'audio/pcmu'}, None]
            ),
          },
        )
      }
    ),
  },
)
fields = st.fixed_dictionaries(
  {'type': st.sampled_from(sorted(EVENTS)) | junk},
  optional={
    'event_id': ids | junk,
    'audio': st.sampled_from([*map(encode, SOUNDS), '%', 'QUI']) | junk,
    'item': messages | junk,
    'item_id': ids,
    'previous_item_id': ids,
    'content_index': st.integers(-1, 2),
    'audio_end_ms': st.integers(-1, 900),
    'session': sessions | junk,
    'response': sessions | junk,
  },
)
frames = fields | st.binary(max_size=9) | st.text(max_size=9)


@settings(max_examples=60)
@given(st.lists(frames, max_size=12))
def test_no_sequence_of_events_ends_or_blocks_a_session(sequence):
  async def main():
    service = make_service(context=900)
    talk = Talk(service)
    try:
      async with asyncio.timeout(30):
        await talk.session.start()
        for frame in sequence:
          frame = json.dumps(frame) if isinstance(frame, dict) else frame
          await talk.session.handle(frame)
        await talk.send('conversation.item.retrieve', item_id='none', event_id='last')
        while not any(e['error']['event_id'] == 'last' for e in talk.of('error')):
          await asyncio.sleep(0.01)
    finally:
      async with asyncio.timeout(30):
        await talk.session.close()
      await asyncio.to_thread(service.close, 5.0)
    internal = [
      e['error'] for e in talk.of('error') if e['error']['code'] == 'server_error'
    ]
    assert not internal, internal
    assert service.is_idle

  asyncio.run(main())
