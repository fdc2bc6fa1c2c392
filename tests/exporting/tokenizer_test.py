# SPDX-License-Identifier: Apache-2.0
"""The exported tokenizer and template make the prompts of ours."""

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from acl_jax import assets
from acl_jax.exporting.files.processing_audio_chat_llama import AudioChatLlamaProcessor
from acl_jax.exporting.tokenizer import compare, write_tokenizer
from acl_jax.text.templates import Audio, Turn, get_template
from acl_jax.text.tokenizers import load_tokenizer
from tests.exporting.conftest import sounds
from tests.text.conftest import llama_model  # noqa: F401

TEMPLATES = {'chatml': 'asset:smollm2-135m-instruct', 'llama2': None}
# A second of speech is 13 places: 100 frames, 50 of the encoder, 4 in one.
SECOND, PLACES = 16_000, 13


@pytest.fixture(scope='module', params=TEMPLATES)
def pair(request, tmp_path_factory):
  """Our prompt of a conversation, and the exported processor."""
  source = TEMPLATES[request.param]
  where = assets.resolve(source) if source else request.getfixturevalue('llama_model')
  tokenizer, folder = load_tokenizer(where), tmp_path_factory.mktemp(request.param)
  audio = write_tokenizer(folder, tokenizer, request.param)
  made = AutoTokenizer.from_pretrained(folder)
  jinja = (folder / 'chat_template.jinja').read_text()
  processor = AudioChatLlamaProcessor(made, stack_factor=4, chat_template=jinja)

  def ours(conversation):
    ids = []
    for segment in get_template(request.param)(conversation, tokenizer):
      ids += [audio] * PLACES if isinstance(segment, int) else segment
    return ids

  return types.SimpleNamespace(ours=ours, processor=processor, tokenizer=tokenizer)


def said(pair, conversation):
  """The prompt by the exported processor."""
  turns, audios = [], 0
  for turn in conversation:
    parts = [turn.content] if isinstance(turn.content, str) else turn.content
    content = [
      {'type': 'audio'} if isinstance(p, Audio) else {'type': 'text', 'text': p}
      for p in parts
    ]
    audios += sum(isinstance(p, Audio) for p in parts)
    whole = len(parts) == 1 and isinstance(parts[0], str)
    turns.append({'role': turn.role, 'content': parts[0] if whole else content})
  text = pair.processor.apply_chat_template(turns, add_generation_prompt=True)
  made = pair.processor(text, audio=sounds(*[SECOND] * audios) or None)
  return made['input_ids'][0].tolist()


# Marks of a template or of a tokenizer are not text.
WORDS = st.text(st.characters(exclude_characters='<|[]>', exclude_categories=['Cs']))
CONTENT = st.lists(WORDS | st.just(Audio(0)), min_size=1, max_size=4).map(tuple)


@given(system=st.none() | WORDS, said_=st.lists(CONTENT, min_size=1, max_size=3))
def test_prompts_are_ours(pair, system, said_):
  conversation = [] if system is None else [Turn('system', system)]
  for number, content in enumerate(said_):
    conversation.append(Turn('user', content))
    if number < len(said_) - 1:
      conversation.append(Turn('assistant', 'Well, yes.'))
  assert said(pair, conversation) == pair.ours(conversation)


@given(text=st.text(st.characters(exclude_characters='<|>', exclude_categories=['Cs'])))
def test_ids_and_text_are_ours(pair, text):
  ids = pair.processor.tokenizer(text, add_special_tokens=False)['input_ids']
  assert ids == pair.tokenizer.encode(text)
  assert pair.processor.decode(ids) == pair.tokenizer.decode(ids)


def test_what_would_differ_is_refused(pair):
  import tokenizers

  other = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={'a': 0}, merges=[]))
  with pytest.raises(ValueError, match='cannot be exported'):
    compare(other, pair.tokenizer)


def test_audios_that_nobody_asked_for_are_refused(pair):
  with pytest.raises(ValueError, match='1 times for 2 audios'):
    pair.processor('<|audio|>', audio=sounds(SECOND, SECOND))


def test_audio_beyond_what_the_encoder_hears_is_refused(pair):
  with pytest.raises(ValueError, match='30.5 s; the encoder hears 30 s'):
    pair.processor('<|audio|>', audio=sounds(488_000))
