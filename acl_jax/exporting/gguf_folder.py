# SPDX-License-Identifier: Apache-2.0
"""The folder for llama.cpp: `llm.gguf`, and `mmproj.gguf` with encoder and projector.

llama-server -m llm.gguf --mmproj mmproj.gguf
"""

from pathlib import Path
from typing import Any

from acl_jax.exporting import card
from acl_jax.exporting.chat_template import describe_template
from acl_jax.exporting.folder import atomic_folder, check_disk_space
from acl_jax.exporting.options import INCLUDE, Q8_0, REFERENCE, Options
from acl_jax.exporting.parts import LLM, Parts
from acl_jax.exporting.tokenizer import PROBE_TEXTS
from acl_jax.models.adapters import StrideAdapter
from acl_jax.models.protocols import Adapter, Encoder
from acl_jax.models.whisper import Whisper
from acl_jax.runtime.files import sha256
from acl_jax.text import gguf as gguf_tokenizer
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.gguf_export import PREFIX, UNKNOWN_TOKEN, describe_tokenizer
from acl_jax.text.template_files import GGUF_FIELD
from acl_jax.text.tokenizer import Tokenizer
from acl_jax.weights.gguf_export import describe_llama, export_llama
from acl_jax.weights.gguf_write import KINDS, Stored, metadata_bytes, write
from acl_jax.weights.llama import sha256_of_files
from acl_jax.weights.mmproj import Speech, describe_mmproj, export_mmproj

LLM_FILE, MMPROJ_FILE = 'llm.gguf', 'mmproj.gguf'
OTHER_BYTES = 1 << 20  # card and licences
ALTERNATIVE = (
  'Serve it with `python -m acl_jax.serve` or export it with --format=transformers;'
  ' or train a stride adapter with hidden_size behind Whisper, as'
  ' configs/smol_stride.py does'
)
File = tuple[str, dict[str, Any], list[Stored]]


def write_gguf(output: Path, parts: Parts, options: Options) -> None:
  """Write the folder `output`; without the LLM if that is a reference.

  ValueError, with what to use instead, for what llama.cpp cannot compute.
  """
  llm, files = parts.llm, [speech_file(parts.encoder, parts.adapter)]
  if options.llm == INCLUDE:
    files.append(llm_file(llm, options))
  check_space(output, files)
  described: dict[str, Any] = {'text_model_sha256': sha256_of_files(llm.source)}
  if options.llm == REFERENCE:
    described['text_model_id'] = options.llm_id or str(llm.path)
  sha256_of_adapter = sha256(parts.adapter_file)
  info = card.CardInfo(
    parts.config, described, parts.adapter_file, sha256_of_adapter, parts.about
  )
  with atomic_folder(output) as folder:
    card.write_card(folder, info, parts.report, 'card_gguf.md')
    if options.llm == INCLUDE:
      card.copy_licences(llm.path, folder)
    write_files(folder, files, llm.text)


def write_gguf_llm(output: Path, llm: LLM, options: Options) -> None:
  """Write a folder with the LLM alone."""
  files = [llm_file(llm, options)]
  check_space(output, files)
  with atomic_folder(output) as folder:
    write_files(folder, files, llm.text)


def speech_file(encoder: Encoder, adapter: Adapter) -> File:
  """Return name, metadata and tensors of `mmproj.gguf`.

  ValueError if llama.cpp has no graph of the encoder or the adapter.
  """
  if adapter.kind != 'stride':
    raise ValueError(
      f'llama.cpp has no projector like the {adapter.kind} adapter. {ALTERNATIVE}'
    )
  assert isinstance(adapter, StrideAdapter)
  if not isinstance(encoder.tower, Whisper):
    raise ValueError(
      f'behind a {encoder.kind} encoder llama.cpp has only the projector parakeet'
      f' (RMSNorm, then two layers around a squared ReLU). {ALTERNATIVE}'
    )
  if adapter.config.hidden_size is None:
    raise ValueError(
      'llama.cpp has no projector that is one linear map, which this stride adapter is'
      f' (adapter.hidden_size = None). {ALTERNATIVE}'
    )
  speech = Speech(encoder.tower, adapter)
  return MMPROJ_FILE, describe_mmproj(speech), export_mmproj(speech)


def llm_file(llm: LLM, options: Options) -> File:
  """Return name, metadata and tensors of `llm.gguf`."""
  config, text = llm.source.config, llm.text
  metadata = describe_llama(config)
  metadata |= {'general.type': 'model', 'general.quantization_version': 2}
  metadata |= describe_tokenizer(text.tokenizer, config.vocab_size)
  metadata[f'{PREFIX}add_bos_token'] = _begins_once(text)
  metadata[GGUF_FIELD] = describe_template(text.template)
  kind = KINDS[Q8_0 if options.dtype == Q8_0 else str(llm.dtype)]
  return LLM_FILE, metadata, export_llama(llm.source, kind)


def check_space(output: Path, files: list[File]) -> None:
  """Raise OSError if the disk is too small for the files."""
  sizes = (
    metadata_bytes(metadata) + sum(tensor.nbytes for tensor in tensors)
    for _, metadata, tensors in files
  )
  check_disk_space(output, sum(sizes) + OTHER_BYTES)


def write_files(folder: Path, files: list[File], text: TextFrontend) -> None:
  """Write the files, a tensor at a time; ValueError if the tokenizer differs."""
  for name, metadata, tensors in files:
    if name == LLM_FILE:
      write(folder / name, metadata, [])  # to read the tokenizer before it takes long
      check_tokenizer(folder / name, text.tokenizer)
    write(folder / name, metadata, tensors)


def check_tokenizer(path: Path, original: Tokenizer) -> None:
  """Raise ValueError unless the tokenizer of a file gives the same ids."""
  loaded = gguf_tokenizer.load(path)
  for text in PROBE_TEXTS:
    for after in ('nothing', 'control', 'text'):
      ids = loaded.encode(text, after=after)
      if ids != (expected := original.encode(text, after=after)):
        raise ValueError(
          f'the tokenizer cannot be exported as GGUF: {text!r} would be {ids}, not'
          f' {expected}'
        )
  for name, id in original.control_tokens.items():
    if loaded.control_tokens.get(name) != id and name != UNKNOWN_TOKEN:
      raise ValueError(
        f'the tokenizer cannot be exported as GGUF: the control token {name!r:.60}'
        f' would be {loaded.control_tokens.get(name)}, not {id}'
      )
  if missing := set(original.stop_ids) - set(loaded.stop_ids):
    raise ValueError(
      f'the tokenizer cannot be exported as GGUF: {min(missing)} would not end a reply'
    )


def _begins_once(text: TextFrontend) -> bool:
  """Whether every prompt begins with the start token, which does not occur again."""
  prompt = text.prompt('a')[0]
  start = text.tokenizer.bos_id
  return isinstance(prompt, tuple) and prompt[0] == start and prompt.count(start) == 1
