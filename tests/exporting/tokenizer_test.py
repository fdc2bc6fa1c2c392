# SPDX-License-Identifier: Apache-2.0
"""Exported tokenizers and chat templates give the same prompts as ours."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from acl_jax.exporting.files.processing_audio_chat_llama import AudioChatLlamaProcessor
from acl_jax.exporting.tokenizer import PROBE_TEXTS, check_equal, write_tokenizer
from acl_jax.text.frontend import load_text_frontend
from acl_jax.text.templates import Audio, Turn, get_template
from acl_jax.text.tokenizer import Tokenizer
from acl_jax.text.tokenizers import load_tokenizer
from tests.exporting.conftest import noise_clips
from tests.text.chat_templates import FAMILIES, TODAY, write_folder
from tests.text.conftest import (  # noqa: F401
  SMOLLM2,
  llama_json,
  llama_model,
  smollm2,
  smollm2_path,
  tiny_chatml,
)

SAMPLES = 3_200  # of a clip: 20 frames, 10 encoder frames
POSITIONS = 3  # of a clip in a prompt: one for every 4 encoder frames or less


class Case(NamedTuple):
  """Our tokenizer and template, and the processor exported from them."""

  tokenizer: Tokenizer
  template: Callable
  audio_id: int
  processor: AudioChatLlamaProcessor

  def expected_ids(self, conversation):
    """The ids of a conversation with our template."""
    ids = []
    for segment in self.template(conversation, self.tokenizer):
      ids += [self.audio_id] * POSITIONS if isinstance(segment, int) else segment
    return ids


KINDS = ['llama_model', 'tiny_chatml', 'llama3.2', 'mistral', 'qwen3', SMOLLM2]


@pytest.fixture(scope='module', params=KINDS)
def case(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  tokenizer, template = load_text(request, folder / 'original')
  audio_id = write_tokenizer(folder, tokenizer, template)
  exported = AutoTokenizer.from_pretrained(folder)
  jinja = (folder / 'chat_template.jinja').read_text()
  processor = AudioChatLlamaProcessor(exported, stack_factor=4, chat_template=jinja)
  return Case(tokenizer, template, audio_id, processor)


def load_text(request, folder):
  """Return a tokenizer with a template that it ships, or one of ours."""
  if request.param in FAMILIES:
    write_folder(folder, FAMILIES[request.param], request.getfixturevalue('llama_json'))
    text = load_text_frontend(folder, 'auto', TODAY)
    return text.tokenizer, text.template
  tokenizer = request.getfixturevalue(request.param)
  if isinstance(tokenizer, Path):
    return load_tokenizer(tokenizer), get_template('llama2')
  return tokenizer, get_template('chatml')


def exported_ids(processor, conversation):
  """The ids of a conversation with the exported processor."""
  turns, clips = [], 0
  for turn in conversation:
    parts = [turn.content] if isinstance(turn.content, str) else turn.content
    content = [
      {'type': 'audio'} if isinstance(p, Audio) else {'type': 'text', 'text': p}
      for p in parts
    ]
    clips += sum(isinstance(p, Audio) for p in parts)
    is_text = len(parts) == 1 and isinstance(parts[0], str)
    turns.append({'role': turn.role, 'content': parts[0] if is_text else content})
  text = processor.apply_chat_template(turns, add_generation_prompt=True)
  inputs = processor(text, audio=noise_clips(*[SAMPLES] * clips) or None)
  return inputs['input_ids'][0].tolist()


# Without the characters of markers and control tokens.
WORDS = st.text(st.characters(exclude_characters='<|[]>', exclude_categories=['Cs']))
CONTENT = st.lists(WORDS | st.just(Audio(0)), min_size=1, max_size=4).map(tuple)


@given(system=st.none() | WORDS, contents=st.lists(CONTENT, min_size=1, max_size=3))
def test_prompts_equal_ours(case, system, contents):
  conversation = [] if system is None else [Turn('system', system)]
  for number, content in enumerate(contents):
    conversation.append(Turn('user', content))
    if number < len(contents) - 1:
      conversation.append(Turn('assistant', 'Well, yes.'))
  expected = case.expected_ids(conversation)
  assert exported_ids(case.processor, conversation) == expected


@given(text=st.text(st.characters(exclude_characters='<|>', exclude_categories=['Cs'])))
def test_ids_and_text_equal_ours(case, text):
  ids = case.processor.tokenizer(text, add_special_tokens=False)['input_ids']
  assert ids == case.tokenizer.encode(text)
  assert case.processor.decode(ids) == case.tokenizer.decode(ids)


def test_unequal_tokenizer_is_refused(case):
  other = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={'a': 0}, merges=[]))
  expected = case.tokenizer.encode(PROBE_TEXTS[0])
  with pytest.raises(ValueError, match=re.escape(f'not {expected}')):
    check_equal(other, case.tokenizer)


def test_clips_without_a_placeholder_raise(case):
  with pytest.raises(ValueError, match=r'<\|audio\|> 1 .* 2 '):
    case.processor('<|audio|>', audio=noise_clips(SAMPLES, SAMPLES))
