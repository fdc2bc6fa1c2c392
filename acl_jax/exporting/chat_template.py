# SPDX-License-Identifier: Apache-2.0
"""The chat template of an exported folder, in Jinja."""

import json
from pathlib import Path

from jinja2 import nodes

from acl_jax.text import sandbox
from acl_jax.text.chat_template import ChatTemplate
from acl_jax.text.templates import Template

TEMPLATE_FOLDER = Path(__file__).parent / 'templates'
_NO_THINKING = (
  '{% if enable_thinking is not defined %}{% set enable_thinking = false %}{% endif %}'
)
_DATE = '{{% macro strftime_now(format) %}}{{{{ {dates}[format] }}}}{{% endmacro %}}'


def describe_template(template: Template) -> str:
  """Return a template for Transformers, which gives the same prompts as ours.

  Transformers has no fixed date, and reasoning models think unless they are told not
  to: both are set before the model's own template. ValueError if no date can be fixed.
  """
  if not isinstance(template, ChatTemplate):
    return (TEMPLATE_FOLDER / f'{template.__name__}.jinja').read_text()
  lines = []
  if 'enable_thinking' in template.source:
    lines.append(_NO_THINKING)
  if formats := _date_formats(template):
    dates = {each: template.today.strftime(each) for each in formats}
    lines.append(_DATE.format(dates=json.dumps(dates)))
  # A block at the end of a line takes the line break with it.
  return '\n'.join([*lines, template.source])


def _date_formats(template: ChatTemplate) -> list[str]:
  """Return the formats in which a template shows the date."""
  compiled = sandbox.compile_template(template.source, template.today)
  tree = compiled.environment.parse(template.source)
  formats = []
  for call in tree.find_all(nodes.Call):
    if isinstance(call.node, nodes.Name) and call.node.name == 'strftime_now':
      format = call.args[0] if len(call.args) == 1 else None
      if not isinstance(format, nodes.Const):
        raise ValueError(
          f'{template.origin} line {call.lineno}: the format of the date is no'
          ' constant, so that the date cannot be fixed'
        )
      formats.append(format.value)
  return formats
