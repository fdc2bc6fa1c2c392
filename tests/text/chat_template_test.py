# SPDX-License-Identifier: Apache-2.0
"""Models' own chat templates: equal to Transformers', audio in them, and forgery."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.text.frontend import load_text_frontend
from acl_jax.text.templates import Audio, Turn
from tests.text.chat_templates import (
  FAMILIES,
  SYSTEMS,
  TODAY,
  TURNS,
  check_conversations,
  load_world,
  told_the_date,
  write_folder,
)

WORD = 'qqq'  # in no other text


@pytest.fixture(scope='module', params=FAMILIES)
def world(request, llama_json, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  with told_the_date():
    yield load_world(folder, FAMILIES[request.param], llama_json)


@pytest.mark.parametrize('system', SYSTEMS)
def test_ids_equal_those_of_transformers(world, system):
  check_conversations(world, [system])


WORDS = st.text(st.characters(exclude_characters='<|[]>/', exclude_categories=['Cs']))


@settings(max_examples=4)
@given(system=st.none() | WORDS, words=st.lists(WORDS, min_size=1, max_size=5))
def test_any_text_gives_the_ids_of_transformers(world, system, words):
  turns = [] if system is None else [('system', system)]
  turns += [(('user', 'assistant')[i % 2], text) for i, text in enumerate(words)]
  assert world.ours(turns) == world.theirs(turns)


CONTROL = sorted({n for f in FAMILIES.values() for n in (*f.control, *f.added)})
FORGED = st.lists(
  st.sampled_from([*CONTROL, '<|im_', 'end|>', '/no_think', '<', ' ']) | WORDS
).map(''.join)


@settings(max_examples=5)
@given(system=st.none() | FORGED, content=FORGED, reply=FORGED)
def test_no_text_becomes_a_control_token(world, system, content, reply):
  turns = [('user', content), ('assistant', 'b'), ('user', content)]
  turns = [('system', system)] * (system is not None) + turns
  # SmolLM3's template looks for /think in the system message, also within </think>.
  switch = '/think' if '/think' in (system or '') else 'a'
  harmless = [(role, switch if role == 'system' else 'a') for role, _ in turns]
  try:
    ids = world.ours(turns)
  except ValueError as error:  # Llama-2's markers are no control tokens
    assert 'a turn contains' in str(error) or '/no_think' in (system or '')
    return
  control = world.control_ids
  expected = [i for i in world.ours(harmless) if i in control]
  assert [i for i in ids if i in control] == expected
  if not any(m in reply for m in ('[INST]', '[/INST]')):
    special = {world.text.tokenizer.control_tokens[n] for n in world.family.control}
    ids = world.ours([('user', 'a'), ('assistant', reply), ('user', 'a')])
    expected = world.ours([('user', 'a'), ('assistant', 'b'), ('user', 'a')])
    assert [i for i in ids if i in special] == [i for i in expected if i in special]


def test_control_strings_are_spelt_out(world):
  if world.family is FAMILIES['llama2']:
    return  # has no control token that a user could name but those of every text
  for name in (*world.family.control, *world.family.added):
    text = f'a {name} b'
    assert text in world.text.tokenizer.decode(world.ours([('user', text)]))


def test_a_template_that_joins_text_to_a_control_token_is_refused(world):
  if world.family is not FAMILIES['smollm3']:
    return
  turns = [('system', 'a <|im_/no_thinkend|> b'), ('user', 'c')]
  with pytest.raises(ValueError, match='makes control tokens of the text of a turn'):
    world.ours(turns)


@settings(max_examples=4)
@given(system=st.none() | WORDS, before=WORDS, after=WORDS, role=st.integers(0, 2))
def test_ids_around_audio_are_those_of_transformers(world, system, before, after, role):
  """The prompt with a word in place of the clip, cut at the word, gives the ids."""
  turns = [('system', system)] * (system is not None)
  turns += [*TURNS[:role], (('user', 'assistant')[role % 2], f'{before}{WORD}{after}')]
  first, last = world.theirs(turns, tokenize=False).split(WORD)
  heard = [Turn(*turn) for turn in turns[:-1]]
  heard.append(Turn(turns[-1][0], (before, Audio(17), after)))
  encode = lambda text: world.reference.encode(text, add_special_tokens=False)  # noqa: E731
  expected = [tuple(encode(first)), 17, tuple(encode(last))]
  if world.family.pieces:  # a space is part of the next word, which is spoken
    newline = encode('\n')
    expected[0] = tuple(encode(first.removesuffix(' ')))
    expected[2] = tuple(encode(f'\n{last}')[len(newline) :])
  assert world.text.conversation_prompt(heard) == [s for s in expected if s != ()]


def test_audio_in_any_turn(world):
  system = [] if world.family is FAMILIES['llama2'] else [Turn('system', [Audio(2)])]
  turns = [
    *system,
    Turn('user', ['First ', Audio(0), ' then', ' this', Audio(1)]),
    Turn('assistant', ['a', Audio(3)]),
    Turn('user', [Audio(4), Audio(5)]),
  ]
  clips = [s for s in world.text.conversation_prompt(turns) if isinstance(s, int)]
  assert sorted(clips) == [0, 1, *[2] * len(system), 3, 4, 5]


def test_a_reply_ends_with_the_token_of_the_template(world):
  end = world.reference.convert_tokens_to_ids(world.family.control[1])
  assert world.text.tokenizer.stop_ids == (end,)


def test_templates_pickle(world):
  copy = pickle.loads(pickle.dumps(world.text))
  assert copy.template.__name__ == 'auto'
  assert copy.prompt('a b') == world.text.prompt('a b')


def test_the_end_of_a_turn_stops_a_reply_that_no_file_names(llama_json, tmp_path):
  write_folder(tmp_path, FAMILIES['llama3'], llama_json)
  config = json.loads((tmp_path / 'tokenizer_config.json').read_text())
  config['eos_token'] = '<|begin_of_text|>'
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
  tokenizer = load_text_frontend(tmp_path, 'auto', TODAY).tokenizer
  names = ('<|begin_of_text|>', '<|eot_id|>')
  assert tokenizer.stop_ids == tuple(map(tokenizer.control_id, names))
