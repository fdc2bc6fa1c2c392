# SPDX-License-Identifier: Apache-2.0
"""The parts of a trained model that an export writes, in whatever format."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from acl_jax import assets, build
from acl_jax.config.experiment import TrainConfig
from acl_jax.exporting import provenance
from acl_jax.exporting.options import Q8_0, Options
from acl_jax.models.lora import merge_lora
from acl_jax.models.protocols import Adapter, Encoder
from acl_jax.models.quantisation import is_quantised
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights.llama import Source, open_llama


class LLM(NamedTuple):
  """The frozen LLM: its weights are read when they are written, as `dtype`.

  path: a folder or a file. dtype: bfloat16 for an int8 LLM and for --dtype=q8_0.
  """

  path: Path
  source: Source
  dtype: np.dtype
  text: TextFrontend


class Parts(NamedTuple):
  """A trained model; low-rank updates are merged.

  adapter_file: where the adapter was read. report: of `acl_jax.evaluate`, if any.
  about: data and training, in prose.
  """

  config: TrainConfig
  llm: LLM
  encoder: Encoder
  adapter: Adapter
  adapter_file: Path
  report: dict[str, Any] | None
  about: str


def open_llm(config: TrainConfig, options: Options) -> LLM:
  """Open the LLM of a config."""
  path = assets.resolve(config.llama.path)
  name = options.dtype or config.llama.dtype
  rounded = name == Q8_0 or is_quantised(name)
  dtype = np.dtype(jnp.dtype('bfloat16' if rounded else name))
  text = build.load_text_frontend(config.llama, config.template)
  return LLM(path, open_llama(path), dtype, text)


def load_parts(
  config: TrainConfig, llm: LLM, checkpoint: str | None, options: Options, about: str
) -> Parts:
  """Load what `train` wrote; ValueError if the parts do not fit each other."""
  checkpoint_parts = build.find_checkpoint(checkpoint, config.shipped_adapter)
  adapter: Any = build.load_trained_adapter(checkpoint_parts, config)
  build.set_beams(adapter, getattr(config.adapter, 'beams', 1))
  merge_lora(adapter)
  encoder = build.load_trained_encoder(config.encoder, checkpoint_parts)
  if updates := checkpoint_parts.lora_folder(build.LLAMA_FOLDER):
    raise ValueError(f'{updates}: an LLM with low-rank updates cannot be exported')
  build.check_adapter_sizes(adapter, encoder.config.output_size, llm.source.config)
  adapter_file = checkpoint_parts.adapter
  report = None
  if options.report is not None:
    report = provenance.read_report(
      options.report, adapter_file, llm.source, config.llama.dtype
    )
  return Parts(config, llm, encoder, adapter, adapter_file, report, about)
