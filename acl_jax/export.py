# SPDX-License-Identifier: Apache-2.0
"""Program: a trained model as a folder that PyTorch and Transformers load.

  python -m acl_jax.export --config=configs/smol.py --llm=include --output=DIR
  python -m acl_jax.export --config=configs/smol.py --output=DIR --check

--checkpoint names a workdir of `train` or an adapter file; without it, the adapter that
is shipped for the config. --llm=reference leaves the LLM where it is and notes the
sha256 of its files; --llm=alone exports nothing else. Of a config of `pretrain` the
recogniser is exported. --check compares a folder that is there with the JAX model, on
--audio. The way back is `train --config.init_from=DIR`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from acl_jax import assets, build
from acl_jax.exporting import card, description, provenance, recogniser, weights
from acl_jax.exporting.folder import check_empty, check_space, whole_folder
from acl_jax.exporting.tokenizer import write_tokenizer
from acl_jax.models.adapters import StrideAdapter
from acl_jax.models.ctc import CTCAdapter
from acl_jax.models.speech_llm import Encoder
from acl_jax.runtime import program
from acl_jax.runtime.files import sha256
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights import safetensors
from acl_jax.weights.huggingface import CONFIG, describe_llama
from acl_jax.weights.llama import Source, open_llama, sha256_of_files

REFERENCE, INCLUDE, ALONE = 'reference', 'include', 'alone'
DTYPES = ('float32', 'bfloat16', 'float16')
OTHER_FILES = 64 << 20  # bytes; tokenizers are the largest


@dataclasses.dataclass(frozen=True)
class Options:
  """What the flags say beside the config.

  llm: included, referred to, or alone. llm_id: how a reference names it, if not by
  its path. dtype: of the LLM's numbers, the config's if None. report: a report.json of
  `evaluate`.
  """

  llm: str = REFERENCE
  llm_id: str | None = None
  dtype: str | None = None
  report: Path | None = None

  def __post_init__(self):
    for name, known in (('llm', (REFERENCE, INCLUDE, ALONE)), ('dtype', DTYPES)):
      value = getattr(self, name)
      if value not in (*known, None):
        raise ValueError(f'--{name} is {value!r}; known: {", ".join(known)}')


def export(
  config: ml_collections.ConfigDict,
  output: Path,
  checkpoint: str | None = None,
  options: Options = Options(),  # noqa: B008
  about: str = '',
) -> None:
  """Writes the whole folder `output`, or nothing.

  about: what is known of data and training, for the model card.
  """
  check_empty(output)
  if 'llama' not in config:
    return recogniser.export(config, output, checkpoint, about)
  source = open_llama(llm := assets.resolve(config.llama.path))
  if options.llm == REFERENCE:
    _check_loadable(llm)
  wanted = options.dtype or config.llama.dtype
  dtype = np.dtype(jnp.dtype('bfloat16' if wanted == 'int8' else wanted))
  text = build.load_text_frontend(config)
  if options.llm == ALONE:
    return _export_llm(output, source, dtype, text)
  adapter = build.load_trained_adapter(config, checkpoint)
  encoder = build.load_encoder(config, checkpoint)
  build.check_adapter_sizes(adapter, encoder.config.output_size, source.config)
  file = build.find_adapter(config, checkpoint)
  report = None
  if options.report is not None:
    evaluated = config.llama.dtype
    report = provenance.read_report(options.report, file, source, evaluated)
  tensors = [*weights.speech_tensors(encoder, adapter)]
  if options.llm == INCLUDE:
    tensors += weights.llm_tensors(source, dtype)
  check_space(output, sum(tensor.nbytes for _, tensor in tensors) + OTHER_FILES)
  made_of = sha256_of_files(source)
  with whole_folder(output) as folder:
    audio = _write_small_files(folder, text, encoder, adapter)
    described = description.describe_model(encoder, adapter, source, dtype)
    described |= {'audio_token_index': audio, 'text_model_sha256': made_of}
    described['text_config'] |= description.describe_ends(text.tokenizer)
    if options.llm == REFERENCE:
      described['text_model_id'] = options.llm_id or _folder_of(llm)
    facts = card.Facts(config, described, file, sha256(file), about)
    card.write(folder, facts, report)
    if options.llm == INCLUDE:
      card.copy_licences(llm, folder)
    safetensors.write(folder, tensors)
    description.write_json(folder / CONFIG, described)  # last: now it loads


def _check_loadable(llm: Path) -> None:
  """A reference is to what Transformers loads."""
  if not (llm.suffix == '.gguf' or (llm / CONFIG).is_file()):
    raise ValueError(
      f'{llm}: Transformers loads no such LLM, so it cannot be referred to; use'
      ' --llm=include'
    )


def _folder_of(llm: Path) -> str:
  return str((llm.parent if llm.is_file() else llm).absolute())


def _write_small_files(
  folder: Path,
  text: TextFrontend,
  encoder: Encoder,
  adapter: CTCAdapter | StrideAdapter,
) -> int:
  """Code, tokenizer and settings; returns the id of the audio token."""
  description.copy_code(folder)
  description.write_generation(folder, text.tokenizer)
  description.write_processor(folder, encoder, adapter.config.stack)
  return write_tokenizer(folder, text.tokenizer, text.template.__name__)


def _export_llm(
  output: Path, source: Source, dtype: np.dtype, text: TextFrontend
) -> None:
  """The LLM as Transformers' `LlamaForCausalLM`."""
  tensors = [
    (name.removeprefix(weights.LLM), tensor)
    for name, tensor in weights.llm_tensors(source, dtype)
  ]
  check_space(output, sum(tensor.nbytes for _, tensor in tensors) + OTHER_FILES)
  with whole_folder(output) as folder:
    write_tokenizer(folder, text.tokenizer, text.template.__name__)
    description.write_generation(folder, text.tokenizer)
    safetensors.write(folder, tensors)
    described: dict[str, Any] = describe_llama(source.config, str(dtype))
    described |= description.describe_ends(text.tokenizer)
    description.write_json(folder / CONFIG, described)


def main(argv: Sequence[str]) -> None:
  """Exports, or checks."""
  del argv
  given, config_flag = flags.FLAGS, flags.FLAGS['config']
  output, file = Path(given.output), config_flags.get_config_filename(config_flag)
  if given.check:
    from acl_jax.exporting import check  # it needs torch

    check.check(given.config, output, given.checkpoint, given.audio)
    return
  report = Path(given.report) if given.report else None
  options = Options(given.llm, given.llm_id, given.dtype, report)
  about = card.docstring(Path(file.split(':')[0]))
  export(given.config, output, given.checkpoint, options, about)
  print(f'export: {output}', flush=True)


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('output', None, 'a new folder; with --check, one that is there')
  flags.DEFINE_string(
    'checkpoint', None, 'a workdir or an adapter; else the shipped one'
  )
  flags.DEFINE_enum('llm', REFERENCE, [REFERENCE, INCLUDE, ALONE], 'the LLM in it')
  flags.DEFINE_string('llm_id', None, 'how to refer to the LLM, if not by its path')
  flags.DEFINE_enum('dtype', None, DTYPES, "of the LLM's numbers; else the config's")
  flags.DEFINE_string('report', None, 'a report.json of evaluate, for the model card')
  flags.DEFINE_bool('check', False, 'compare a folder with the JAX model')
  flags.DEFINE_list('audio', [], 'recordings or manifests; else some that are shipped')
  flags.mark_flags_as_required(['config', 'output'])
  program.run(main)
