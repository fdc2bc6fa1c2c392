# SPDX-License-Identifier: Apache-2.0
"""Templates that fail, loop or grow: one sentence, soon, without the memory."""

import resource
import time

import pytest
from transformers.utils import chat_template_utils

from acl_jax.text import bounds, sandbox
from acl_jax.text.chat_template import make_chat_template
from acl_jax.text.templates import Turn
from tests.text.chat_templates import TODAY, FixedDate

GROW = '{% set ns = namespace(s="ab") %}{% for i in range(60) %}'
NEST = '{% set ns = namespace(s=[1, 2]) %}{% for i in range(60) %}'
BRANCH = '{% macro f(n) %}{% if n < 30 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}'
HOSTILE = {
  'raises': ('{{ raise_exception("no system\nrole") }}', 'refuses .*: no system role'),
  'syntax': ('a\n{% if %}', 'no Jinja in line 2'),
  'unfinished': ('{% for m in messages %}', 'no Jinja'),
  'undefined': ('{{ bos_tokens + "a" }}', "'bos_tokens' is undefined"),
  'unk_token': ('{{ unk_token + "a" }}', 'needs a unk_token'),
  'nested loops': (
    '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}',
    'steps',
  ),
  'filters': ('{% for i in range(9999) %}{{ range(99)|list|sum }}' * 9, 'steps|Jinja'),
  'recursive loop': ('{% for i in [1] recursive %}{% endfor %}', 'recursive loop'),
  'branches': (BRANCH + '{% endmacro %}{{ f(0) }}', 'steps'),
  'recursion': ('{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'recursion'),
  'repeat': ('{{ "a" * 10**10 }}', 'repeats'),
  'repeat a list': ('{{ [1] * 2000000000 }}', 'repeats'),
  'power': ('{{ 9 ** 999999999 }}', 'power'),
  'bits': (GROW + '{% set ns.s = loop.index ** 99 %}{% endfor %}', 'bits'),
  'plus': (GROW + '{% set ns.s = ns.s + ns.s %}{% endfor %}', 'characters'),
  'tilde': (GROW + '{% set ns.s = ns.s ~ ns.s %}{% endfor %}', 'characters'),
  'join': (GROW + '{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}', 'characters'),
  'join with': (GROW + '{% set ns.s = ns.s.join(ns.s) %}{% endfor %}', 'characters'),
  'replace': (GROW + '{% set ns.s = ns.s.replace("a", ns.s) %}{% endfor %}', 'charact'),
  'replacing': (GROW + '{% set ns.s = ns.s|replace("", ns.s) %}{% endfor %}', 'chara'),
  'set block': (GROW + '{% set s %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = s %}'
    '{% endfor %}', 'characters'),
  'output': ('{% for i in range(9999) %}' + 9_000 * 'a' + '{% endfor %}', 'characters'),
  'in a macro': ('{% macro f() %}{% for i in range(9999) %}' + 9_000 * 'a'
    + '{% endfor %}{% endmacro %}{{ f()|length }}', 'characters'),
  'lists': (NEST + '{% set ns.s = [ns.s, ns.s] %}{% endfor %}', 'elements'),
  'mappings': (NEST + '{% set ns.s = {1: ns.s, 2: ns.s} %}{% endfor %}', 'elements'),
  'namespaces': (NEST + '{% set ns.s = namespace(a=ns) %}{% endfor %}', 'namespace'),
  'format': ('{{ "%2000000000d" % 1 }}', 'formats'),
  'str.format': ('{{ "{:>2000000000}".format(1) }}', r'\.format'),
  'ljust': ('{{ "a".ljust(2000000000) }}', r'\.ljust'),
  'bytes': ('{{ (1).to_bytes(2000000000, "big") }}', r'\.to_bytes'),
  'center': ('{{ "a"|center(2000000000) }}', "'center'"),
  'mapped': ('{{ ["a"]|map("center", 9)|list }}', "'center'"),
  'indent': ('{{ "a\n"|indent(2000000000) }}', 'argument'),
  'tojson': ('{{ [1]|tojson(indent=9999) }}', 'indent'),
  'round': ('{{ 1|round(2000000000, "floor") }}', 'argument'),
  'lipsum': ('{{ lipsum(n=2000000000) }}', "'lipsum' is undefined"),
  'range': ('{{ range(2000000000) }}', 'too big'),
  'include': ('{% include "/etc/passwd" %}', 'no loader'),
  'internals': ('{{ messages.__class__.__mro__ }}', 'unsafe'),
  'mutation': ('{{ messages.append(1) }}', r'unsafe|not available'),
  'private name': ('{{ namespace(__str__=1) }}', 'namespace does not take'),
  'deep': ('{{ ' + '(' * 20_000 + '1' + ')' * 20_000 + ' }}', 'recursion|nest'),
  'large': (' ' * (sandbox.MAX_TEMPLATE + 1), f'limit is {sandbox.MAX_TEMPLATE}'),
}  # fmt: skip


@pytest.mark.parametrize('name', HOSTILE)
def test_a_bad_template_is_one_sentence(name, tiny_chatml, monkeypatch):
  monkeypatch.setattr(bounds, 'MAX_STEPS', 6_000)
  source, match = HOSTILE[name]
  start, memory = time.process_time(), _peak_memory()
  with pytest.raises(
    ValueError, match=f'(?s)^model/file: field .*(?:{match})'
  ) as raised:
    make_chat_template(source, 'model/file: field', tiny_chatml, TODAY, {})
  assert '\n' not in str(raised.value) and len(str(raised.value)) < 400
  assert time.process_time() - start < 2 * bounds.MAX_SECONDS
  assert _peak_memory() - memory < 400 << 20


def _peak_memory() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_a_slow_template_is_ended(tiny_chatml, monkeypatch):
  monkeypatch.setattr(bounds, 'MAX_SECONDS', -1.0)
  with pytest.raises(ValueError, match='steps or -1 s'):
    make_chat_template('{{ messages[0].content }}', 'm', tiny_chatml, TODAY, {})


def test_long_conversations_are_within_the_limits(tiny_chatml):
  source = (
    '{% for m in messages %}{% if not loop.last or messages|length == 1 %}{{ m.role }}'
    '{{ m.content | trim }}{% endif %}{% endfor %}'
  )
  template = make_chat_template(source, 'm', tiny_chatml, TODAY, {})
  turns = [Turn('user', 'yes ' * 99)] * 400
  [ids] = template(turns, tiny_chatml)
  assert len(ids) > 399 * 99


def test_globals_are_those_of_transformers(tiny_chatml, monkeypatch):
  source = (
    '{{ strftime_now("%d %b %Y") }} {{ {"a<": "é"}|tojson }} {{ tools }}{{ documents }}'
    '{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}\n'
    '{% generation %}\n{{ " x, y "|trim|upper }}\n{% endgeneration %}\n'
    '{{ ["a", "b"]|join("-") }}{{ "a-b".replace("-", "+").split("+")|last }}{{ unset }}'
    '{{ "x".join(["1", "2"]) }}{{ messages[0].content }}'
    '{{ [{"r": 1}]|map(attribute="r")|list }}'
  )
  template = make_chat_template(source, 'm', tiny_chatml, TODAY, {})
  [ids] = template([Turn('user', 'a')], tiny_chatml)
  monkeypatch.setattr(chat_template_utils, 'datetime', FixedDate)
  messages = [{'role': 'user', 'content': 'a'}]
  [expected], _ = chat_template_utils.render_jinja_template(
    [messages], None, None, source
  )
  assert tiny_chatml.decode(ids) == expected
  assert expected.startswith('09 Mar 2023 {"a<": "é"} NoneNone01X')
