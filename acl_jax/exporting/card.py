# SPDX-License-Identifier: Apache-2.0
"""The model card: what it is, how to use it, what it was made of."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from acl_jax.build import SHIPPED

TEMPLATES = Path(__file__).parent / 'templates'
LICENCES = {
  'asset:smollm2-135m-instruct': 'Apache-2.0',
  'asset:whisper-base': 'MIT',
}
OURS, UNKNOWN = 'Apache-2.0', 'see where it comes from'
OF_LLMS = ('LICENSE*', 'LICENCE*', 'NOTICE*', 'USE_POLICY*')  # files to go with weights


class Facts(NamedTuple):
  """What the card tells."""

  config: ConfigDict
  described: dict[str, Any]  # config.json
  adapter: Path
  adapter_sha256: str
  about: str


def docstring(config_file: Path) -> str:
  """What a config says of its data, its training and its results."""
  return ast.get_docstring(ast.parse(config_file.read_text())) or ''


def copy_licences(llm: Path, folder: Path) -> None:
  """What must go where the LLM's weights go."""
  where = llm if llm.is_dir() else llm.parent
  for pattern in OF_LLMS:
    for path in sorted(where.glob(pattern)):
      if path.is_file():
        shutil.copyfile(path, folder / path.name)


def write(folder: Path, facts: Facts, report: dict[str, Any] | None) -> None:
  """`README.md`."""
  config, described = facts.config, facts.described
  files = described['text_model_sha256']
  llm = described.get('text_model_id')
  rows = {
    'llm': config.llama.path,
    'llm_licence': LICENCES.get(config.llama.path, UNKNOWN),
    'llm_files': '\n'.join(f'  `{name}` {sha256}' for name, sha256 in files.items()),
    'llm_place': f'elsewhere: `{llm}`' if llm else 'included',
    'encoder': config.encoder.path,
    'encoder_licence': LICENCES.get(config.encoder.path, UNKNOWN),
    'adapter_kind': 'ctc' if described.get('ctc') else 'stride',
    'adapter': facts.adapter.name,
    'adapter_licence': OURS if facts.adapter.parent == SHIPPED else UNKNOWN,
    'adapter_sha256': facts.adapter_sha256,
    'data': config.get('data', {}).get('train', 'not recorded'),
    'about': facts.about or 'The config says nothing.',
    'figures': _figures(report),
  }
  text = (TEMPLATES / 'card.md').read_text()
  for name, value in rows.items():
    text = text.replace(f'{{{{{name}}}}}', str(value))
  (folder / 'README.md').write_text(text)


def _figures(report: dict[str, Any] | None) -> str:
  if report is None:
    return 'No report was given when this was exported.'
  lines = ['| the LLM is given | nats per response token |', '|---|---:|']
  for name, value in report['response_nll'].items():
    if value is not None:
      lines.append(f'| {name.replace("_", " ")} | {value:.3f} |')
  rates = {name: value for name, value in report.get('wer', {}).items() if value}
  told = f'{report.get("examples")} examples; word error rates: {json.dumps(rates)}.'
  return '\n'.join([*lines, '', told])
