# SPDX-License-Identifier: Apache-2.0
"""The folders that Transformers loads: of the whole model, or of the LLM alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from acl_jax.exporting import card, description, weights
from acl_jax.exporting.folder import atomic_folder, check_disk_space
from acl_jax.exporting.options import INCLUDE, REFERENCE, Options
from acl_jax.exporting.parts import LLM, Parts
from acl_jax.exporting.tokenizer import write_tokenizer
from acl_jax.runtime.files import sha256
from acl_jax.weights import safetensors
from acl_jax.weights.huggingface import CONFIG
from acl_jax.weights.llama import sha256_of_files
from acl_jax.weights.llama_config import describe_llama

OTHER_BYTES = 64 << 20  # of the files without weights; tokenizers are the largest
Describe = Callable[[Parts], dict[str, Any]]


def write_transformers(
  output: Path, parts: Parts, options: Options, describe: Describe = lambda _: {}
) -> None:
  """Write the whole model with the code that runs it.

  describe: returns entries that `config.json` has besides those of Transformers.
  """
  llm, encoder, adapter = parts.llm, parts.encoder, parts.adapter
  tensors = [*weights.speech_tensors(encoder, adapter)]
  if options.llm == INCLUDE:
    tensors += weights.llm_tensors(llm.source, llm.dtype)
  check_disk_space(output, sum(tensor.nbytes for _, tensor in tensors) + OTHER_BYTES)
  described = description.describe_model(encoder, adapter, llm.source, llm.dtype)
  described |= {'text_model_sha256': sha256_of_files(llm.source)}
  described['text_config'] |= description.describe_special_tokens(llm.text.tokenizer)
  if options.llm == REFERENCE:
    described['text_model_id'] = options.llm_id or _folder_of(llm.path)
  described |= describe(parts)
  with atomic_folder(output) as folder:
    described['audio_token_index'] = _write_small_files(folder, parts)
    info = card.CardInfo(
      parts.config,
      described,
      parts.adapter_file,
      sha256(parts.adapter_file),
      parts.about,
    )
    card.write_card(folder, info, parts.report)
    if options.llm == INCLUDE:
      card.copy_licences(llm.path, folder)
    safetensors.write(folder, tensors)
    description.write_json(folder / CONFIG, described)  # last: it makes the rest load


def check_loadable(llm: Path) -> None:
  """Raise ValueError unless Transformers can load the LLM of a reference."""
  if not (llm.suffix == '.gguf' or (llm / CONFIG).is_file()):
    raise ValueError(
      f'{llm}: Transformers cannot load an LLM in this format. Use --llm=include'
    )


def _folder_of(llm: Path) -> str:
  return str((llm.parent if llm.is_file() else llm).absolute())


def _write_small_files(folder: Path, parts: Parts) -> int:
  """Write code, tokenizer and settings; returns the id of the audio token."""
  text = parts.llm.text
  description.copy_code(folder)
  description.write_generation_config(folder, text.tokenizer)
  description.write_processor_config(folder, parts.encoder, parts.adapter)
  return write_tokenizer(folder, text.tokenizer, text.template)


def write_llm(output: Path, llm: LLM) -> None:
  """Write the LLM alone, as its family's class in Transformers."""
  tensors = [
    (name.removeprefix(weights.LLM_PREFIX), tensor)
    for name, tensor in weights.llm_tensors(llm.source, llm.dtype)
  ]
  check_disk_space(output, sum(tensor.nbytes for _, tensor in tensors) + OTHER_BYTES)
  with atomic_folder(output) as folder:
    write_tokenizer(folder, llm.text.tokenizer, llm.text.template)
    description.write_generation_config(folder, llm.text.tokenizer)
    safetensors.write(folder, tensors)
    described: dict[str, Any] = describe_llama(llm.source.config, str(llm.dtype))
    described |= description.describe_special_tokens(llm.text.tokenizer)
    description.write_json(folder / CONFIG, described)
