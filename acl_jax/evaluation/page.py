# SPDX-License-Identifier: Apache-2.0
"""Self-contained HTML pages from `templates/`: no network, no script but their own."""

import base64
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from acl_jax.evaluation.labels import arm_label
from acl_jax.evaluation.media import mp3_data_url, spectrogram_data_url
from acl_jax.evaluation.word_diff import diff_words

TEMPLATES = Path(__file__).parent / 'templates'


def render_page(
  template: str, title: str, styles: Sequence[str], script: str | None, **context: Any
) -> str:
  """Render a template that extends `layout.jinja`; all text is escaped.

  Args:
    template: Its name.
    title: Of the page.
    styles: Names of style sheets in `templates/`.
    script: Name of a script in `templates/`.
    **context: What the template shows.
  """
  style = '\n'.join((TEMPLATES / name).read_text() for name in styles)
  code = (TEMPLATES / script).read_text() if script else ''
  page = environment().get_template(template)
  return page.render(
    title=title,
    policy=make_policy(style, code),
    style=style,
    script=code,
    **context,
  )


def make_policy(style: str, script: str) -> str:
  """Return a Content-Security-Policy that allows exactly this style and script."""
  allowed = [
    "default-src 'none'",
    f"style-src '{_hash(style)}'",
    'img-src data:',
    'media-src data:',
    "base-uri 'none'",
    "form-action 'none'",
  ]
  if script:
    allowed.append(f"script-src '{_hash(script)}'")
  return '; '.join(allowed)


def _hash(source: str) -> str:
  digest = hashlib.sha256(source.encode()).digest()
  return f'sha256-{base64.b64encode(digest).decode()}'


@functools.cache
def environment() -> jinja2.Environment:
  """Return the environment of the templates, with autoescape."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['number'] = format_number
  environment.filters['percent'] = format_percent
  environment.filters['mp3_data_url'] = mp3_data_url
  environment.filters['spectrogram_data_url'] = spectrogram_data_url
  environment.globals['diff_words'] = diff_words
  environment.globals['arm_label'] = arm_label
  return environment


def format_number(value: float | None) -> str:
  """Return a value with three decimals; '–' for None."""
  return '–' if value is None else f'{value:.3f}'


def format_percent(share: float | None) -> str:
  """Return a share with one decimal; '–' for None."""
  return '–' if share is None else f'{share:.1%}'
