# SPDX-License-Identifier: Apache-2.0
"""Chat templates with the constructs of each family's, and tiny tokenizers for them.

Those of Qwen, SmolLM, Mistral, TinyLlama and Zephyr are shortened from templates under
Apache-2.0 or MIT; those of Llama are written for these tests.
"""

import contextlib
import datetime
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from acl_jax.text.frontend import TextFrontend, load_text_frontend
from acl_jax.text.templates import Turn

TODAY = datetime.date(2023, 3, 9)


class FixedDate(datetime.datetime):
  """Tells Transformers the date."""

  @classmethod
  def now(cls, tz=None):
    return cls(TODAY.year, TODAY.month, TODAY.day)


LLAMA2 = (
  "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
  "{% set system_message = messages[0]['content'] %}{% else %}"
  '{% set loop_messages = messages %}{% set system_message = false %}{% endif %}'
  '{% for message in loop_messages %}'
  "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
  "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
  '{% if loop.index0 == 0 and system_message != false %}'
  "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
  "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
  "{% if message['role'] == 'user' %}"
  "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
  "{% elif message['role'] == 'assistant' %}"
  "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
    {%- set header = '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>' %}
    {{- header + '\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
LLAMA32 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" + (tools | tojson(indent=4)) }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("Roles must alternate: user, assistant, user...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n"
                + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
"""
QWEN25 = """{%- if tools %}
    {{- '<|im_start|>system\\n<tools>' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "</tools><tool_call></tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen. You are helpful.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first)
        or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {{- '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not(message.content.startswith('<tool_response>')
        and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n')
                    .split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' }}
                {{- reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
                {{- content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
SMOLLM2 = (
  "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
  "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}"
  "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
  "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
  "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM3 = """{# ───── defaults ───── #}
{%- if enable_thinking is not defined -%}
{%- set enable_thinking = true -%}
{%- endif -%}
{%- if enable_thinking -%}
  {%- set reasoning_mode = "/think" -%}
{%- else -%}
  {%- set reasoning_mode = "/no_think" -%}
{%- endif -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}
    {%- set reasoning_mode = "/no_think" -%}
  {%- elif "/think" in system_message -%}
    {%- set reasoning_mode = "/think" -%}
  {%- endif -%}
  {%- set custom = system_message.replace("/no_think", "").replace("/think", "")
    .rstrip() -%}
{%- endif -%}
{%- if "/system_override" in system_message -%}
  {{- custom.replace("/system_override", "").rstrip() -}}
  {{- "<|im_end|>\\n" -}}
{%- else -%}
  {{- "## Metadata\\n\\n" -}}
  {{- "Knowledge Cutoff Date: June 2025\\n" -}}
  {%- set today = strftime_now("%d %B %Y") -%}
  {{- "Today Date: " ~ today ~ "\\n" -}}
  {{- "Reasoning Mode: " + reasoning_mode + "\\n\\n## Custom Instructions\\n\\n" -}}
  {%- if custom -%}
    {{- custom + "\\n\\n" -}}
  {%- elif reasoning_mode == "/no_think" -%}
    {{- "You are a helpful AI assistant named SmolLM.\\n\\n" -}}
  {%- endif -%}
  {{- "<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set content = message.content if message.content is string else "" -%}
  {%- if message.role == "user" -%}
    {{ "<|im_start|>" + message.role + "\\n"  + content + "<|im_end|>\\n" }}
  {%- elif message.role == "assistant" -%}
    {% generation %}
    {%- if reasoning_mode == "/think" -%}
      {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
    {%- else -%}
      {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n")
        + "<|im_end|>\\n" }}
    {%- endif -%}
    {% endgeneration %}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {%- if reasoning_mode == "/think" -%}
    {{ "<|im_start|>assistant\\n" }}
  {%- else -%}
    {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n"  }}
  {%- endif -%}
{%- endif -%}
"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""


class Family(NamedTuple):
  """A template, and the tokens of its tokenizer.

  control: names of control tokens; the first is what begins a text, the second is what
  ends a reply. added: other tokens that are one piece. pieces: whether the words are
  sentencepiece's, with a space before the first.
  """

  template: str
  control: tuple[str, ...]
  added: tuple[str, ...] = ()
  pieces: bool = False


_HEADERS = (
  '<|begin_of_text|>',
  '<|eot_id|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
)
_CHATML = ('<|endoftext|>', '<|im_end|>', '<|im_start|>')
_THINK = ('<think>', '</think>', '<tool_response>', '</tool_response>')
FAMILIES = {
  'llama2': Family(LLAMA2, ('<s>', '</s>'), pieces=True),
  'tinyllama': Family(ZEPHYR, ('<s>', '</s>'), pieces=True),
  'llama3': Family(LLAMA3, _HEADERS),
  'llama3.2': Family(LLAMA32, _HEADERS),
  'mistral': Family(MISTRAL, ('<s>', '</s>', '[INST]', '[/INST]'), pieces=True),
  'mistral-window': Family(MISTRAL, ('<s>', '</s>'), pieces=True),
  'qwen2': Family(QWEN25, _CHATML, ('<tool_call>', '</tool_call>')),
  'qwen3': Family(QWEN3, _CHATML, _THINK),
  'smollm2': Family(SMOLLM2, _CHATML),
  'smollm3': Family(SMOLLM3, _CHATML, _THINK[:2]),
}


def write_folder(folder: Path, family: Family, llama_json: Path) -> None:
  """Write the tokenizer files of a family, as they are published.

  llama_json: the folder of a tokenizer with sentencepiece's words.
  """
  if family.pieces:
    tokenizer = tokenizers.Tokenizer.from_file(str(llama_json / 'tokenizer.json'))
  else:
    tokenizer = tokenizers.Tokenizer.from_str(_byte_level())
  tokenizer.add_special_tokens(
    [AddedToken(n, normalized=False) for n in family.control]
  )
  tokenizer.add_tokens([AddedToken(n, normalized=False) for n in family.added])
  folder.mkdir(exist_ok=True)
  tokenizer.save(str(folder / 'tokenizer.json'))
  start, end, *_ = family.control
  config = {'bos_token': start, 'eos_token': end}
  config['chat_template'] = family.template
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))


@functools.cache
def _byte_level() -> str:
  """A tokenizer of bytes and some words, as JSON."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=330, initial_alphabet=alphabet, show_progress=False
  )
  text = 'system user assistant think What is the capital of France? Today Date: <|im_'
  tokenizer.train_from_iterator([text, '\n\n', ' \n'] * 3, trainer)
  return tokenizer.to_str()


TURNS = (
  ('user', ' What is the capital of “France” 漢字?\n'),
  ('assistant', '<think>\nWell.\n</think>\n\n It is\n\nParis.  '),
  ('user', '\tand in 2024? '),
  ('assistant', '\n</think>so 🙂'),
  ('user', 'x'),
)
SYSTEMS = (None, ' Be brief.\n', 'One /no_think two ', '/think /system_override')


class World(NamedTuple):
  """The same files read by us and by Transformers."""

  family: Family
  text: TextFrontend
  reference: Any

  def ours(self, turns):
    """Return the ids of a conversation without audio."""
    [ids] = self.text.conversation_prompt([Turn(*turn) for turn in turns])
    return list(ids)

  def theirs(self, turns, **options):
    """Return the ids that Transformers gives it."""
    result = self.reference.apply_chat_template(
      [{'role': role, 'content': content} for role, content in turns],
      add_generation_prompt=turns[-1][0] == 'user',
      enable_thinking=False,
      **options,
    )
    return result['input_ids'] if isinstance(result, Mapping) else result

  @property
  def control_ids(self):
    """Ids that the text of a user must not become."""
    names = (*self.family.control, *self.family.added)
    return {self.reference.convert_tokens_to_ids(name) for name in names}


def load_world(folder: Path, family: Family, llama_json: Path) -> World:
  """Write the files of a family and read them by us and by Transformers."""
  write_folder(folder, family, llama_json)
  text = load_text_frontend(folder, 'auto', TODAY)
  return World(family, text, PreTrainedTokenizerFast.from_pretrained(folder))


@contextlib.contextmanager
def told_the_date() -> Iterator[None]:
  """Let `strftime_now` of Transformers be at `TODAY`."""
  with mock.patch.object(chat_template_utils, 'datetime', FixedDate):
    yield


def check_conversations(world: World, systems: Sequence[str | None]) -> None:
  """Check that conversations of 1 to 5 turns have the ids of Transformers."""
  for system in systems:
    for count in range(1, len(TURNS) + 1):
      turns = [('system', system)] * (system is not None) + [*TURNS[:count]]
      assert world.ours(turns) == world.theirs(turns), turns
