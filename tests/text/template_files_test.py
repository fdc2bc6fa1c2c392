# SPDX-License-Identifier: Apache-2.0
"""Where a model's template is found, and the sentence for each file that is wrong."""

import json
import re

import gguf
import pytest

from acl_jax.text import templates
from acl_jax.text.frontend import load_text_frontend
from acl_jax.text.sandbox import MAX_TEMPLATE
from tests.text.chat_templates import FAMILIES, TODAY, write_folder
from tests.tiny_world import write_tokenizer

SOURCES = ('chat_template.jinja', 'tokenizer_config.json', 'chat_template.json')

CONTENT = '{{ messages[0].content }}'


@pytest.fixture
def folder(tmp_path):
  """A folder with a tokenizer like SmolLM2's, without a template."""
  write_tokenizer(tmp_path / 'model')
  return tmp_path / 'model'


def write(folder, name, template):
  """Write a template to one of the files that may hold it."""
  path = folder / name
  if name.endswith('.jinja'):
    return path.write_text(template)
  fields = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(fields | {'chat_template': template}))


def says(text):
  """Return what the frontend makes of a prompt."""
  [ids] = text.prompt('')
  return text.tokenizer.decode(ids)


def test_files_are_read_in_the_order_of_transformers(folder):
  for name in reversed(SOURCES):
    write(folder, name, f'is {name}' + CONTENT)
    assert says(load_text_frontend(folder, 'auto', TODAY)) == f'is {name}'
  write(folder, 'mine.jinja', '{{ messages|length }} is mine' + CONTENT)
  mine = load_text_frontend(folder, str(folder / 'mine.jinja'), TODAY)
  assert says(mine) == '1 is mine'
  assert load_text_frontend(folder, 'chatml', TODAY).template is templates.chatml


def test_the_default_of_several_templates(folder):
  rows = [{'name': 'tool_use', 'template': 'a'}]
  rows.append({'name': 'default', 'template': 'b' + CONTENT})
  write(folder, 'tokenizer_config.json', rows)
  assert says(load_text_frontend(folder, 'auto', TODAY)) == 'b'


def test_the_template_of_a_gguf_file(tmp_path):
  path = tmp_path / 'q.gguf'
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre('gpt-2')
  writer.add_token_list(['a', 'b', 'ab', '<s>', '</s>', '<think>'])
  writer.add_token_types([1, 1, 1, 3, 3, 4])
  writer.add_token_merges(['a b'])
  writer.add_bos_token_id(3)
  writer.add_eos_token_id(4)
  writer.add_chat_template(
    '{% for m in messages %}{{ bos_token }}{{ m.content + eos_token }}{% endfor %}'
    '<think>'
  )
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  text = load_text_frontend(path, 'auto', TODAY)
  assert text.prompt('ab') == [(3, 2, 4, 5)]
  assert 5 not in text.prompt('<think>')[0][:-1]
  assert text.tokenizer.stop_ids == (4,)


@pytest.mark.parametrize(
  'name, template, match',
  [
    ('tokenizer_config.json', 7, 'tokenizer_config.json: chat_template is a int'),
    (
      'tokenizer_config.json',
      [{'name': 'a'}],
      r"\['a'\], and none is called 'default'",
    ),
    (SOURCES[0], 'a' * (10 << 20), rf'jinja has 10485760 bytes; .* {MAX_TEMPLATE}'),
    (
      SOURCES[2],
      'a' * (10 << 20),
      rf'json: chat_template has 10485760 .* {MAX_TEMPLATE}',
    ),
    (SOURCES[0], '{{ raise_exception("No.") }}', r'model/chat_template.jinja .*: No\.'),
    (SOURCES[0], 'a', 'model/chat_template.jinja does not keep every audio clip'),
    (SOURCES[0], CONTENT * 2, 'does not keep every audio clip once'),
    (SOURCES[1], '{% if %}', 'model/tokenizer_config.json: chat_template is no Jinja'),
  ],
)
def test_a_wrong_field_is_named(folder, name, template, match):
  write(folder, name, template)
  with pytest.raises(ValueError, match=match):
    load_text_frontend(folder, 'auto', TODAY)


def test_a_model_without_a_template(folder):
  with pytest.raises(
    ValueError, match=f"{re.escape(str(folder))} .*'chatml' or 'llama2'"
  ):
    load_text_frontend(folder, 'auto', TODAY)
  with pytest.raises(ValueError, match="'qwen'.* auto, chatml, llama2, or a .jinja"):
    load_text_frontend(folder, 'qwen', TODAY)
  with pytest.raises(FileNotFoundError, match=r'no\.jinja'):
    load_text_frontend(folder, 'no.jinja', TODAY)


def test_a_tokenizer_without_a_start_token(folder):
  config = {'eos_token': '<|im_end|>', 'chat_template': FAMILIES['llama2'].template}
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))
  match = 'tokenizer_config.json: chat_template .* needs a bos_token'
  with pytest.raises(ValueError, match=match):
    load_text_frontend(folder, 'auto', TODAY)


def test_stop_ids_of_the_generation_config(folder):
  write(folder, 'chat_template.jinja', CONTENT)
  (folder / 'config.json').write_text('{"eos_token_id": 9}')
  assert load_text_frontend(folder, 'auto', TODAY).tokenizer.stop_ids == (2, 9)
  path = folder / 'generation_config.json'
  path.write_text('{"eos_token_id": [5, 2, 7]}')
  assert load_text_frontend(folder, 'auto', TODAY).tokenizer.stop_ids == (2, 5, 7)
  for wrong in ('"</s>"', '[-1]', 'true', '[2147483648]', str([1] * 99)):
    path.write_text(f'{{"eos_token_id": {wrong}}}')
    with pytest.raises(ValueError, match=r'generation_config\.json: eos_token_id is'):
      load_text_frontend(folder, 'auto', TODAY)


def test_thinking_is_off(llama_json, tmp_path):
  for name in ('qwen3', 'smollm3'):
    write_folder(tmp_path / name, FAMILIES[name], llama_json)
    text = load_text_frontend(tmp_path / name, 'auto', TODAY)
    assert '</think>' in says(text).split('assistant')[-1]
