# SPDX-License-Identifier: Apache-2.0
"""Program: export a trained model as a folder that PyTorch and Transformers load.

  python -m acl_jax.export --config=configs/smol.py --llm=include --output=DIR
  python -m acl_jax.export --config=configs/smol.py --output=DIR --check

--checkpoint is a workdir of `train` or an adapter file; the default is the adapter
shipped for the config. --llm=reference does not copy the LLM, but stores the sha256 of
its files; --llm=alone exports only the LLM. For a config of `pretrain` the recogniser
is exported. --check compares an exported folder with the JAX model, on --audio.
`train --config.init_from=DIR` reads the folder.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from acl_jax import assets, build
from acl_jax.config.experiment import (
  Experiment,
  PretrainConfig,
  TrainConfig,
  parse_experiment,
  parse_train,
)
from acl_jax.exporting import card, description, provenance, recogniser, weights
from acl_jax.exporting.folder import (
  atomic_folder,
  check_disk_space,
  check_empty,
  own_output,
)
from acl_jax.exporting.tokenizer import write_tokenizer
from acl_jax.models.lora import merge_lora
from acl_jax.models.protocols import Adapter, Encoder
from acl_jax.models.quantisation import is_quantised
from acl_jax.runtime import config_flag, program
from acl_jax.runtime.files import sha256
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights import safetensors
from acl_jax.weights.huggingface import CONFIG
from acl_jax.weights.llama import Source, open_llama, sha256_of_files
from acl_jax.weights.llama_config import describe_llama

REFERENCE, INCLUDE, ALONE = 'reference', 'include', 'alone'
DTYPES = ('float32', 'bfloat16', 'float16')
OTHER_BYTES = 64 << 20  # of the files without weights; tokenizers are the largest


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings of an export that are not in the config.

  llm: reference, include or alone. llm_id: the LLM in a reference; None for its path.
  dtype: of the LLM's weights; None for the config's. report: a report.json of
  `evaluate` for the model card.
  """

  llm: str = REFERENCE
  llm_id: str | None = None
  dtype: str | None = None
  report: Path | None = None

  def __post_init__(self):
    for name, choices in (('llm', (REFERENCE, INCLUDE, ALONE)), ('dtype', DTYPES)):
      value = getattr(self, name)
      if value not in (*choices, None):
        raise ValueError(f'--{name} is {value!r}; choose from {", ".join(choices)}')


def export(
  config: Experiment,
  output: Path,
  checkpoint: str | None = None,
  options: Options = Options(),  # noqa: B008
  about: str = '',
) -> None:
  """Write the complete folder `output`, or nothing if there is an error.

  checkpoint: None for the shipped adapter. about: description of data and training for
  the model card.
  """
  with own_output(output):
    check_empty(output)
    _export(config, output, checkpoint, options, about)


def _export(
  config: Experiment, output: Path, checkpoint: str | None, options: Options, about: str
) -> None:
  if isinstance(config, PretrainConfig):
    return recogniser.export(config, output, checkpoint, about)
  source = open_llama(llm := assets.resolve(config.llama.path))
  if options.llm == REFERENCE:
    _check_loadable(llm)
  dtype_name = options.dtype or config.llama.dtype
  dtype = np.dtype(jnp.dtype('bfloat16' if is_quantised(dtype_name) else dtype_name))
  text = build.load_text_frontend(config.llama, config.template)
  if options.llm == ALONE:
    return _export_llm(output, source, dtype, text)
  parts = build.find_checkpoint(checkpoint, config.shipped_adapter)
  adapter: Any = build.load_trained_adapter(parts, config)
  merge_lora(adapter)
  encoder = build.load_trained_encoder(config.encoder, parts)
  if updates := parts.lora_folder(build.LLAMA_FOLDER):
    raise ValueError(f'{updates}: an LLM with low-rank updates cannot be exported')
  build.check_adapter_sizes(adapter, encoder.config.output_size, source.config)
  adapter_file = parts.adapter
  report = None
  if options.report is not None:
    report = provenance.read_report(
      options.report, adapter_file, source, config.llama.dtype
    )
  tensors = [*weights.speech_tensors(encoder, adapter)]
  if options.llm == INCLUDE:
    tensors += weights.llm_tensors(source, dtype)
  check_disk_space(output, sum(tensor.nbytes for _, tensor in tensors) + OTHER_BYTES)
  llm_sha256 = sha256_of_files(source)
  with atomic_folder(output) as folder:
    audio_token = _write_small_files(folder, text, encoder, adapter)
    described = description.describe_model(encoder, adapter, source, dtype)
    described |= {'audio_token_index': audio_token, 'text_model_sha256': llm_sha256}
    described['text_config'] |= description.describe_special_tokens(text.tokenizer)
    if options.llm == REFERENCE:
      described['text_model_id'] = options.llm_id or _folder_of(llm)
    info = card.CardInfo(config, described, adapter_file, sha256(adapter_file), about)
    card.write_card(folder, info, report)
    if options.llm == INCLUDE:
      card.copy_licences(llm, folder)
    safetensors.write(folder, tensors)
    description.write_json(folder / CONFIG, described)  # last: it makes the rest load


def _check_loadable(llm: Path) -> None:
  """Raise ValueError unless Transformers can load the LLM of a reference."""
  if not (llm.suffix == '.gguf' or (llm / CONFIG).is_file()):
    raise ValueError(
      f'{llm}: Transformers cannot load an LLM in this format. Use --llm=include'
    )


def _folder_of(llm: Path) -> str:
  return str((llm.parent if llm.is_file() else llm).absolute())


def _write_small_files(
  folder: Path,
  text: TextFrontend,
  encoder: Encoder,
  adapter: Adapter,
) -> int:
  """Write code, tokenizer and settings; returns the id of the audio token."""
  description.copy_code(folder)
  description.write_generation_config(folder, text.tokenizer)
  description.write_processor_config(folder, encoder, adapter)
  return write_tokenizer(folder, text.tokenizer, text.template)


def _export_llm(
  output: Path, source: Source, dtype: np.dtype, text: TextFrontend
) -> None:
  """Export the LLM alone, as its family's class in Transformers."""
  tensors = [
    (name.removeprefix(weights.LLM_PREFIX), tensor)
    for name, tensor in weights.llm_tensors(source, dtype)
  ]
  check_disk_space(output, sum(tensor.nbytes for _, tensor in tensors) + OTHER_BYTES)
  with atomic_folder(output) as folder:
    write_tokenizer(folder, text.tokenizer, text.template)
    description.write_generation_config(folder, text.tokenizer)
    safetensors.write(folder, tensors)
    described: dict[str, Any] = describe_llama(source.config, str(dtype))
    described |= description.describe_special_tokens(text.tokenizer)
    description.write_json(folder / CONFIG, described)


def main(argv: Sequence[str]) -> None:
  """Parse the config, then export or check."""
  del argv
  args, output = flags.FLAGS, Path(flags.FLAGS.output)
  if args.check:
    from acl_jax.exporting import check  # requires torch

    check.check_export(parse_train(args.config), output, args.checkpoint, args.audio)
    return
  report = Path(args.report) if args.report else None
  options = Options(args.llm, args.llm_id, args.dtype, report)
  about = card.config_docstring(config_flag.path())
  export(parse_experiment(args.config), output, args.checkpoint, options, about)
  print(f'export: {output}', flush=True)


if __name__ == '__main__':
  config_flag.define(TrainConfig, PretrainConfig)
  flags.DEFINE_string('output', None, 'a new folder; with --check, an exported one')
  flags.DEFINE_string(
    'checkpoint', None, 'a workdir of train or an adapter file; else the shipped one'
  )
  flags.DEFINE_enum(
    'llm', REFERENCE, [REFERENCE, INCLUDE, ALONE], 'how to export the LLM'
  )
  flags.DEFINE_string('llm_id', None, 'the LLM in a reference; else its path')
  flags.DEFINE_enum('dtype', None, DTYPES, "of the LLM's weights; else the config's")
  flags.DEFINE_string('report', None, 'a report.json of evaluate, for the model card')
  flags.DEFINE_bool('check', False, 'compare an exported folder with the JAX model')
  flags.DEFINE_list('audio', [], 'audio files or manifests; else some that are shipped')
  flags.mark_flags_as_required(['config', 'output'])
  program.run(main)
