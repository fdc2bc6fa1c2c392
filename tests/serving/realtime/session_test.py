# SPDX-License-Identifier: Apache-2.0
import base64

import pytest

from acl_jax.serving.realtime import items
from tests.serving.fakes import REPLY
from tests.serving.realtime_fakes import (
  encode,
  make_service,
  noise,
  run,
  silence,
  speech,
)

SENTENCES = ['Größe: 3 €.', 'It is a test, of course!', '日本語 is fine.']


def prompt_of(service, index=-1):
  """What the engine was asked, clips as their length."""
  tokenizer = service.assistant.text.tokenizer
  return ''.join(
    f'<{len(p.embeddings)}>' if hasattr(p, 'embeddings') else tokenizer.decode(p)
    for p in service.engine.requests[index].request.prompt
  ).partition('user\n')[2]


def test_a_spoken_turn_is_answered_in_text_and_sound():
  async def converse(talk):
    await talk.say(silence(1.0) + speech(0.8) + silence(0.8))
    done = (await talk.until('response.done'))['response']
    kinds = [k for k in talk.kinds() if not k.endswith('delta')]
    hearing = [k for k in kinds if 'transcription' in k]
    assert [k for k in kinds if k not in hearing] == [
      'session.created',
      'input_audio_buffer.speech_started',
      'input_audio_buffer.speech_stopped',
      'input_audio_buffer.committed',
      'conversation.item.added',
      'conversation.item.done',
      'response.created',
      'response.output_item.added',
      'conversation.item.added',
      'response.content_part.added',
      'response.output_audio.done',
      'response.output_audio_transcript.done',
      'response.content_part.done',
      'response.output_item.done',
      'conversation.item.done',
      'response.done',
    ]
    deltas = talk.of('response.output_audio_transcript.delta')
    assert ''.join(e['delta'] for e in deltas) == REPLY
    sound = [
      base64.b64decode(e['delta']) for e in talk.of('response.output_audio.delta')
    ]
    assert len(b''.join(sound)) == 20 * sum(map(len, SENTENCES))
    assert talk.service.voice.spoken == SENTENCES
    assert done['status'] == 'completed'
    assert done['output'][0]['content'] == [
      {'type': 'output_audio', 'transcript': REPLY}
    ]
    audio = done['usage']['input_token_details']['audio_tokens']
    assert audio > 8 and f'<{audio}>' in prompt_of(talk.service)
    times = done['timing']
    assert times['hear_ms'] <= times['first_token_ms'] <= times['first_audio_ms']
    (heard,) = talk.of('conversation.item.input_audio_transcription.completed')
    started = talk.of('input_audio_buffer.speech_started')[0]
    assert (
      heard['item_id'] == started['item_id'] and heard['transcript'] == 'fourteen s'
    )
    assert heard['logprobs'][0] == {
      'token': ' four',
      'logprob': -0.1,
      'bytes': list(b' four'),
      'alternatives': [{'token': ' for', 'logprob': -2.5}],
    }

  run(converse)


def test_push_to_talk_and_text_in_one_conversation():
  async def converse(talk):
    await talk.manual('text')
    await talk.say(speech(1.0))
    await talk.send('input_audio_buffer.commit')
    await talk.send('response.create', response={'instructions': 'Be brief.'})
    await talk.until('response.done')
    assert prompt_of(talk.service) == '<9>\nassistant\n'
    await talk.write('And then?')
    await talk.send('response.create')
    assert (await talk.until('response.output_text.done'))['text'] == REPLY
    await talk.until('response.done')
    assert prompt_of(talk.service) == (
      f'<9>\nassistant\n{REPLY}\nuser\nAnd then?\nassistant\n'
    )
    assert talk.service.voice.spoken == [] and not talk.of('error')

  run(converse)


def test_an_interruption_cuts_what_was_not_played():
  service = make_service()
  service.engine.seconds = 0.02

  async def converse(talk):
    await talk.write('Hi')
    await talk.send('response.create')
    await talk.until('response.output_audio.delta')
    await talk.say(silence(0.5) + speech(0.4))
    done = (await talk.until('response.done'))['response']
    assert done['status'] == 'cancelled'
    assert done['status_details'] == {'type': 'cancelled', 'reason': 'turn_detected'}
    (item,) = done['output']
    assert item['status'] == 'incomplete'
    assert REPLY.startswith(item['content'][0]['transcript'])
    place = {'item_id': item['id'], 'content_index': 0}
    await talk.send('conversation.item.truncate', audio_end_ms=99_999, **place)
    assert 'the audio has' in (await talk.until('error'))['error']['message']
    await talk.send('conversation.item.truncate', audio_end_ms=3, **place)
    await talk.until('conversation.item.truncated')
    await talk.send('conversation.item.retrieve', item_id=item['id'])
    kept = (await talk.until('conversation.item.retrieved'))['item']
    assert kept['content'][0]['transcript'] == 'Größe:'
    await talk.say(silence(0.8))
    await talk.until('response.created')
    assert service.engine.requests[0].cancelled
    await talk.until('response.done')
    assert prompt_of(service).startswith('Hi\nassistant\nGröße:\nuser\n<')

  run(converse, service)


def test_all_of_an_answer_is_cut_when_none_of_it_was_played():
  service = make_service()
  service.engine.seconds = 0.02

  async def converse(talk):
    await talk.write('Hi')
    await talk.send('response.create')
    item = (await talk.until('conversation.item.added'))['item']
    if item['role'] == 'user':
      item = (await talk.until('conversation.item.added'))['item']
    await talk.send(
      'conversation.item.truncate', item_id=item['id'], content_index=0, audio_end_ms=0
    )
    await talk.until('conversation.item.truncated')
    assert talk.of('response.done')[0]['response']['status'] == 'cancelled'
    await talk.write('Well?')
    await talk.send('response.create')
    await talk.until('response.created')
    await talk.until('response.done')
    assert prompt_of(service) == 'Hi\nWell?\nassistant\n'  # one turn of the user

  run(converse, service)


def test_the_text_goes_on_without_the_voice():
  service = make_service()
  service.voice.fails_on = 'course'

  async def converse(talk):
    await talk.write('Hi')
    await talk.send('response.create')
    done = (await talk.until('response.done'))['response']
    assert done['status'] == 'completed'
    assert done['output'][0]['content'][0]['transcript'] == REPLY
    (error,) = talk.of('error')
    assert error['error']['code'] == 'voice_failed'
    assert service.voice.spoken == SENTENCES[:1]

  run(converse, service)


def test_a_server_without_a_voice_writes():
  service = make_service()
  service.voice = None

  async def converse(talk):
    assert talk.events[0]['session']['output_modalities'] == ['text']
    await talk.send('session.update', session={'output_modalities': ['audio']})
    error = (await talk.until('error'))['error']
    assert error['param'] == 'session.output_modalities'
    await talk.write('Hi')
    await talk.send('response.create')
    assert (await talk.until('response.output_text.done'))['text'] == REPLY

  run(converse, service)


def test_ends_of_a_response():
  service = make_service()

  async def converse(talk):
    await talk.manual('text')
    await talk.write('Hi')
    await talk.send('response.create', response={'max_output_tokens': 5})
    done = (await talk.until('response.done'))['response']
    assert (done['status'], done['status_details']['reason']) == (
      'incomplete',
      'max_output_tokens',
    )
    assert done['usage']['output_tokens'] == 5
    service.engine.broken = True
    await talk.write('Again')
    await talk.send('response.create')
    done = (await talk.until('response.done'))['response']
    assert done['status'] == 'failed' and done['status_details']['error']['message']
    service.engine.broken = False
    service.engine.hold()
    await talk.write('And again')
    await talk.send('response.create')
    created = (await talk.until('response.created'))['response']['id']
    await talk.send('response.create')
    error = (await talk.until('error'))['error']
    assert error['code'] == 'conversation_already_has_active_response'
    await talk.send('response.cancel', response_id='resp_0')
    await talk.until('error')
    await talk.send('response.cancel', response_id=created)
    done = (await talk.until('response.done'))['response']
    assert done['status_details']['reason'] == 'client_cancelled'
    assert service.engine.requests[-1].cancelled
    await talk.send('response.cancel')
    assert (await talk.until('error'))['error']['code'] == 'response_not_active'

  run(converse, service)


def test_a_response_outside_of_the_conversation():
  async def converse(talk):
    await talk.manual('text')
    await talk.write('Hi', id='first')
    content = [{'type': 'input_text', 'text': 'Name it.'}]
    options = {
      'conversation': 'none',
      'metadata': {'topic': 'name'},
      'input': [
        {'type': 'item_reference', 'id': 'first'},
        {'type': 'message', 'role': 'user', 'content': content},
      ],
    }
    await talk.send('response.create', response=options)
    done = (await talk.until('response.done'))['response']
    assert done['conversation_id'] is None and done['metadata'] == {'topic': 'name'}
    assert prompt_of(talk.service) == 'Hi\nName it.\nassistant\n'
    await talk.send('response.create')
    await talk.until('response.done')
    assert prompt_of(talk.service) == 'Hi\nassistant\n'

  run(converse)


def test_a_long_conversation_forgets_its_first_turns():
  service = make_service(context=600)

  async def converse(talk):
    await talk.manual('text', instructions='Be brief.')
    for number in range(9):
      await talk.write(f'Turn {number} ' + 'x' * 60)
      await talk.send('response.create')
      done = (await talk.until('response.done'))['response']
      assert done['status'] == 'completed', done
    assert prompt_of(service).startswith('Turn') and 'Turn 0' not in prompt_of(service)
    assert 'Turn 8' in prompt_of(service)
    await talk.write('y' * 900)
    await talk.send('response.create')
    error = (await talk.until('response.done'))['response']['status_details']['error']
    assert error['code'] == 'context_length_exceeded'
    # What was refused has forgotten nothing, so that the model knows it again.
    added = talk.of('conversation.item.added')
    await talk.send('conversation.item.delete', item_id=added[-1]['item']['id'])
    await talk.write('Well?')
    await talk.send('response.create')
    await talk.until('response.done')
    assert 'Turn 8' in prompt_of(service)

  run(converse, service)


def test_refused_events_change_nothing(monkeypatch):
  monkeypatch.setattr(items, 'MAX_ITEMS', 2)

  async def converse(talk):
    await talk.manual('text')
    parts = [{'type': 'input_audio', 'audio': encode(speech(s))} for s in (0.5, 20.5)]
    item = {'type': 'message', 'role': 'user', 'content': parts}
    await talk.send('conversation.item.create', item=item)
    assert (await talk.until('error'))['error']['param'] == 'item.content.1.audio'

    await talk.write('one', id='a')
    await talk.write('two', id='b')
    await talk.say(speech(0.5))
    await talk.send('input_audio_buffer.commit')
    assert (await talk.until('error'))['error']['code'] == 'conversation_full'
    await talk.send('conversation.item.delete', item_id='a')
    await talk.send('input_audio_buffer.commit')
    await talk.until('input_audio_buffer.committed')  # the audio was not lost
    heard = 'conversation.item.input_audio_transcription.completed'
    await talk.until(heard)
    assert len(talk.of(heard)) == 1

  run(converse, make_service())


def test_a_refused_cut_does_not_stop_the_answer():
  async def converse(talk):
    await talk.write('Hello')
    await talk.send('response.create')
    item = (await talk.until('response.output_item.added'))['item']
    place = {'item_id': item['id'], 'content_index': 3}
    await talk.send('conversation.item.truncate', audio_end_ms=1, **place)
    assert (await talk.until('error'))['error']['param'] == 'content_index'
    done = (await talk.until('response.done'))['response']
    assert done['status'] == 'completed'

  run(converse, make_service())


def test_audio_of_a_written_item_is_heard():
  async def converse(talk):
    await talk.manual('text')
    content = [
      {'type': 'input_text', 'text': 'This: '},
      {'type': 'input_audio', 'audio': encode(noise(0.5, -20))},
    ]
    item = {'type': 'message', 'role': 'user', 'content': content}
    await talk.send('conversation.item.create', item=item)
    await talk.send('response.create')
    await talk.until('response.done')
    assert prompt_of(talk.service) == 'This: <5>\nassistant\n'
    (heard,) = talk.of('conversation.item.input_audio_transcription.completed')
    assert heard['content_index'] == 1

  run(converse)


def test_what_cannot_be_heard_is_said_and_left_out():
  async def converse(talk):
    await talk.manual('text')
    await talk.say(noise(0.5, -3))  # its peaks are too loud for the listener
    await talk.send('input_audio_buffer.commit')
    await talk.send('response.create')
    done = (await talk.until('response.done'))['response']
    assert done['status'] == 'failed'
    assert talk.of('conversation.item.input_audio_transcription.failed')
    await talk.write('Hi')
    await talk.send('response.create')
    await talk.until('response.done')
    assert prompt_of(talk.service) == 'Hi\nassistant\n'

  run(converse)


BAD = [
  ('nothing', {}, 'type'),
  ('input_audio_buffer.append', {'audio': '!!!'}, 'audio'),
  ('input_audio_buffer.append', {'audio': encode(b'abc')}, 'audio'),
  ('input_audio_buffer.append', {'audio': 7}, 'audio'),
  ('input_audio_buffer.append', {}, 'audio'),
  ('input_audio_buffer.commit', {}, None),
  ('session.update', {'session': {'type': 'transcription'}}, 'session.type'),
  (
    'session.update',
    {'session': {'audio': {'input': {'format': {'rate': 8_000}}}}},
    'session.audio.input.format.rate',
  ),
  (
    'session.update',
    {'session': {'audio': {'input': {'turn_detection': {'threshold': 2}}}}},
    'session.audio.input.turn_detection.threshold',
  ),
  ('session.update', {'session': {'tools': [{}]}}, 'session.tools'),
  ('conversation.item.delete', {'item_id': 'none'}, 'item_id'),
  ('conversation.item.create', {'item': {'type': 'function_call'}}, 'item.type'),
  ('response.create', {}, None),
  ('response.cancel', {}, None),
]


@pytest.mark.parametrize('kind,fields,param', BAD)
def test_a_bad_event_is_an_error_and_nothing_else(kind, fields, param):
  async def converse(talk):
    await talk.send(kind, event_id='mine', **fields)
    error = (await talk.until('error'))['error']
    assert error['type'] == 'invalid_request_error' and error['event_id'] == 'mine'
    assert error['param'] == param and error['message'] and error['code']
    await talk.session.handle('{"type": "session.upd')
    await talk.session.handle(b'\xff\x00')
    await talk.session.handle('[' * 100_000)
    await talk.session.handle('{"type": "session.update", "session": "\\ud800"}')
    assert len(talk.of('error')) == 5
    await talk.send('session.update', session={'instructions': 'Be brief.'})
    session = (await talk.until('session.updated'))['session']
    assert session['instructions'] == 'Be brief.'

  run(converse)


def test_settings_are_merged():
  async def converse(talk):
    turn = {'type': 'server_vad', 'silence_duration_ms': 250}
    await talk.send(
      'session.update', session={'audio': {'input': {'turn_detection': turn}}}
    )
    await talk.send(
      'session.update', session={'audio': {'input': {'format': {'rate': 16_000}}}}
    )
    await talk.until('session.updated')
    session = (await talk.until('session.updated'))['session']
    assert session['audio']['input']['format'] == {'type': 'audio/pcm', 'rate': 16_000}
    assert session['audio']['input']['turn_detection'] == {
      'type': 'server_vad',
      'threshold': 0.5,
      'prefix_padding_ms': 300,
      'silence_duration_ms': 250,
      'create_response': True,
      'interrupt_response': True,
    }
    await talk.say(silence(1.0, 16_000) + speech(0.5, 16_000) + silence(0.5, 16_000))
    await talk.until('input_audio_buffer.speech_stopped')

  run(converse)


def test_items():
  async def converse(talk):
    await talk.write('b', id='b')
    await talk.write('a', id='a')
    await talk.send(
      'conversation.item.create',
      previous_item_id='root',
      item={
        'id': 'c',
        'type': 'message',
        'role': 'system',
        'content': [{'type': 'input_text', 'text': 'c'}],
      },
    )
    added = talk.of('conversation.item.added')
    assert [e['previous_item_id'] for e in added] == [None, 'b', None]
    await talk.send('conversation.item.delete', item_id='b')
    await talk.until('conversation.item.deleted')
    await talk.write('again', id='a')
    assert "already an item 'a'" in (await talk.until('error'))['error']['message']
    await talk.write('x' * (1 << 17), id='long')
    for _ in range(8):
      await talk.write('x' * (1 << 17))
    assert (await talk.until('error'))['error']['code'] == 'conversation_full'

  run(converse)


def test_many_recordings_at_once_are_all_heard():
  service = make_service(max_queue=20)
  service.hearing.seconds = 0.01

  async def converse(talk):
    await talk.manual('text')
    for number in range(19):
      content = [{'type': 'input_audio', 'audio': encode(noise(0.2, -20, seed=number))}]
      item = {'type': 'message', 'role': 'user', 'content': content}
      await talk.send('conversation.item.create', item=item)
    await talk.send('response.create')
    await talk.until('response.done')
    assert prompt_of(service).count('<2>') == 19 and not talk.of('error')

  run(converse, service)
