# SPDX-License-Identifier: Apache-2.0
"""Program: export a trained model as a folder that other software loads.

  python -m acl_jax.export --config=configs/smol.py --llm=include --output=DIR
  python -m acl_jax.export --config=configs/smol.py --output=DIR --check

--checkpoint is a workdir of `train` or an adapter file; the default is the adapter
shipped for the config. --llm=reference does not copy the LLM, but stores the sha256 of
its files; --llm=alone exports only the LLM. For a config of `pretrain` the recogniser
is exported. --check compares an exported folder with the JAX model, on --audio.
--format=transformers is for PyTorch and Transformers, --format=ultravox for vLLM,
--format=gguf for llama.cpp: the LLM, which it includes by default, and an mmproj file.
`train --config.init_from=DIR` reads the folder.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from acl_jax import assets
from acl_jax.config.experiment import (
  Experiment,
  PretrainConfig,
  TrainConfig,
  parse_experiment,
  parse_train,
)
from acl_jax.exporting import card, recogniser
from acl_jax.exporting.folder import check_empty, own_output
from acl_jax.exporting.gguf_folder import write_gguf, write_gguf_llm
from acl_jax.exporting.options import (
  ALONE,
  DTYPES,
  FORMATS,
  GGUF,
  INCLUDE,
  Q8_0,
  REFERENCE,
  TRANSFORMERS,
  ULTRAVOX,
)
from acl_jax.exporting.options import Options as Options
from acl_jax.exporting.parts import Parts, load_parts, open_llm
from acl_jax.exporting.transformers_folder import (
  check_loadable,
  write_llm,
  write_transformers,
)
from acl_jax.exporting.ultravox import write_ultravox
from acl_jax.runtime import config_flag, program

WRITERS: dict[str, Callable[[Path, Parts, Options], None]] = {
  TRANSFORMERS: write_transformers,
  ULTRAVOX: write_ultravox,
  GGUF: write_gguf,
}
CHECKS = {  # modules with `check_export`; the first two require torch
  TRANSFORMERS: 'acl_jax.exporting.check',
  ULTRAVOX: 'acl_jax.exporting.check_ultravox',
  GGUF: 'acl_jax.exporting.check_gguf',
}


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
  is_default = options.format == TRANSFORMERS
  if isinstance(config, PretrainConfig):
    if not is_default:
      raise ValueError(
        f'--format is {options.format}; a recogniser of pretrain has --format='
        f'{TRANSFORMERS} only'
      )
    return recogniser.export(config, output, checkpoint, about)
  if options.llm == REFERENCE and options.format in (TRANSFORMERS, ULTRAVOX):
    check_loadable(assets.resolve(config.llama.path))  # before anything is loaded
  llm = open_llm(config, options)
  if options.llm == ALONE:
    if options.format == GGUF:
      return write_gguf_llm(output, llm, options)
    if not is_default:
      raise ValueError(f'--llm=alone has --format={TRANSFORMERS} or {GGUF} only')
    return write_llm(output, llm)
  parts = load_parts(config, llm, checkpoint, options, about)
  WRITERS[options.format](output, parts, options)


def main(argv: Sequence[str]) -> None:
  """Parse the config, then export or check."""
  del argv
  args, output = flags.FLAGS, Path(flags.FLAGS.output)
  if args.check:
    check = importlib.import_module(CHECKS[args.format])
    check.check_export(parse_train(args.config), output, args.checkpoint, args.audio)
    return
  report = Path(args.report) if args.report else None
  llm = args.llm or (INCLUDE if args.format == GGUF else REFERENCE)
  options = Options(llm, args.llm_id, args.dtype, report, args.format)
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
    'llm',
    None,
    [REFERENCE, INCLUDE, ALONE],
    'how to export the LLM; else reference, with --format=gguf include',
  )
  flags.DEFINE_enum('format', TRANSFORMERS, FORMATS, 'what can load the folder')
  flags.DEFINE_string('llm_id', None, 'the LLM in a reference; else its path')
  flags.DEFINE_enum(
    'dtype', None, [*DTYPES, Q8_0], "of the LLM's weights; else the config's"
  )
  flags.DEFINE_string('report', None, 'a report.json of evaluate, for the model card')
  flags.DEFINE_bool('check', False, 'compare an exported folder with the JAX model')
  flags.DEFINE_list('audio', [], 'audio files or manifests; else some that are shipped')
  flags.mark_flags_as_required(['config', 'output'])
  program.run(main)
