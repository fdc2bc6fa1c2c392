# SPDX-License-Identifier: Apache-2.0
"""From a config to the parts: tokenizer, template, and the model with its weights."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from acl_jax import assets
from acl_jax.batches.log_mels import AugmentationConfig
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.models.llama import LlamaConfig
from acl_jax.models.speech_llm import Encoder, SpeechLLM
from acl_jax.models.spelling import token_letters
from acl_jax.models.whisper import Whisper
from acl_jax.sharding.rules import sharding_rules
from acl_jax.text import ctc_vocabulary
from acl_jax.text.ctc_vocabulary import Vocabulary
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.templates import get_template
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights import safetensors
from acl_jax.weights.adapter import load_adapter
from acl_jax.weights.exported import is_exported, read_config
from acl_jax.weights.llama import load_llama, open_llama, sha256_of_files
from acl_jax.weights.parakeet import load_conformer, save_conformer
from acl_jax.weights.projector import load_projector
from acl_jax.weights.whisper import load_whisper, save_whisper_hf
from data_pipeline.augment import Augmentation, Masking

ADAPTER_FILE = 'adapter.safetensors'
ENCODER_FOLDER = 'encoder'  # there is one where the encoder was trained too
ENCODERS = {'conformer': load_conformer, 'whisper': load_whisper}
SHIPPED = Path(__file__).parent / 'adapters'


def load_text_frontend(config: ml_collections.ConfigDict) -> TextFrontend:
  """The tokenizer and the template that a config names."""
  tokenizer = load_tokenizer(assets.resolve(config.llama.path))
  return TextFrontend(tokenizer, get_template(config.template))


def load_frozen_llama(config: ml_collections.ConfigDict):
  """The LLM that a config names, cut as it says where a mesh is set."""
  path, dtype = assets.resolve(config.llama.path), jnp.dtype(config.llama.dtype)
  llama = load_llama(path, dtype, sharding_rules(config.llama.sharding))
  _check_sizes('llama', config.llama, llama.config)
  return llama


def _check_sizes(name: str, wanted: ml_collections.ConfigDict, found) -> None:
  """Refuses a model of other sizes than the config says, if it says any."""
  for key, value in wanted.get('sizes', {}).items():
    if (has := getattr(found, key)) != value:
      raise ValueError(
        f'config.{name}.sizes.{key} is {value}, that of {wanted.path} is {has}'
      )


def find_encoder(config: ml_collections.ConfigDict, checkpoint: str | None) -> Path:
  """The folder of the encoder trained with an adapter, or else of the config's."""
  if checkpoint:
    folder = find_adapter(config, checkpoint).parent
    if is_exported(folder):
      return folder
    if (folder / ENCODER_FOLDER).is_dir():
      return folder / ENCODER_FOLDER
  return Path(assets.resolve(config.encoder.path))


def load_encoder(
  config: ml_collections.ConfigDict, checkpoint: str | None = None
) -> Encoder:
  """The audio encoder that was trained with an adapter, or else the config's."""
  if (kind := config.encoder.kind) not in ENCODERS:
    raise ValueError(f'config.encoder.kind is {kind!r}; known: conformer, whisper')
  folder = find_encoder(config, checkpoint)
  if checkpoint and (folder / safetensors.FILE).is_file():
    safetensors.check(folder / safetensors.FILE)
  encoder = ENCODERS[kind](folder)
  _check_sizes('encoder', config.encoder, encoder.config)
  return encoder


def save_encoder(encoder: Encoder, folder: Path, origin: Path | None = None) -> None:
  """Writes what `load_encoder` reads.

  origin: the folder it came from, whose vocabulary its CTC head keeps.
  """
  if isinstance(encoder, Whisper):
    return save_whisper_hf(encoder, folder)
  save_conformer(encoder, folder)
  for name in ctc_vocabulary.FILES:
    if origin not in (None, folder) and (origin / name).is_file():
      shutil.copyfile(origin / name, folder / name)


def load_decoder(
  config: ml_collections.ConfigDict, model: SpeechLLM, text: TextFrontend, checkpoint
) -> Callable[[list[int]], str] | None:
  """What writes out what `SpeechLLM.greedy` finds, if the model recognises."""
  if isinstance(model.adapter, CTCAdapter):
    return text.tokenizer.decode
  if isinstance(model.encoder, ConformerCTC):
    return Vocabulary(find_encoder(config, checkpoint)).decode
  return None


def augmentation_config(config: ml_collections.ConfigDict) -> AugmentationConfig:
  """What a config does to the recordings of a corpus."""
  how, masking = config.augmentation, config.get('masking')
  return AugmentationConfig(
    augmentation=Augmentation(**how) if how else None,
    masking=Masking(**masking) if masking else None,
    copies=config.data.copies,
    seed=config.seed,
  )


def new_adapter(
  config: ml_collections.ConfigDict,
  encoder_size: int,
  llm_size: int,
  vocabulary: Sequence[int],
  piece: Callable[[int], str],
) -> CTCAdapter | StrideAdapter:
  """An untrained adapter; `vocabulary` is what a CTC adapter may write.

  piece: how a token is spelt, `Tokenizer.piece`.
  """
  sizes = {k: v for k, v in config.adapter.to_dict().items() if k != 'kind'}
  sizes |= {'encoder_size': encoder_size, 'llm_size': llm_size}
  rngs = nnx.Rngs(config.seed)
  if config.adapter.kind == 'stride':
    return StrideAdapter(StrideAdapterConfig(**sizes), rngs=rngs)
  if config.adapter.kind != 'ctc':
    raise ValueError(
      f'config.adapter.kind is {config.adapter.kind!r}; known: ctc, stride'
    )
  sizes['vocabulary_size'] = len(vocabulary)
  adapter = CTCAdapter(CTCAdapterConfig(**sizes), rngs=rngs)
  adapter.vocabulary[...] = jnp.asarray(np.asarray(vocabulary, np.int32))
  adapter.spelling.letters[...] = jnp.asarray(token_letters([*map(piece, vocabulary)]))
  return adapter


def find_adapter(config: ml_collections.ConfigDict, checkpoint: str | None) -> Path:
  """The adapter file: given, in a given workdir, or the one shipped for this config.

  Of a folder that `acl_jax.export` wrote it is that of all weights, or their index.
  """
  if checkpoint is None:
    path = SHIPPED / f'{config.shipped_adapter}.safetensors'
  else:
    path = Path(checkpoint)
    if is_exported(path):
      sharded = (path / safetensors.INDEX).is_file()
      return path / (safetensors.INDEX if sharded else safetensors.FILE)
    path = path / ADAPTER_FILE if path.is_dir() else path
  if not path.is_file():
    raise FileNotFoundError(
      f'there is no adapter {path}; train one or give --checkpoint'
    )
  return path


def load_trained_adapter(
  config: ml_collections.ConfigDict, checkpoint: str | None
) -> CTCAdapter | StrideAdapter:
  """The adapter that `find_adapter` finds.

  ValueError if it was exported for another LLM than the config's.
  """
  path = find_adapter(config, checkpoint)
  if not is_exported(path.parent):
    return load_adapter(path)
  llm = assets.resolve(config.llama.path)
  if not llm.is_dir() or llm.resolve() != path.parent.resolve():
    expected = read_config(path.parent).get('text_model_sha256')
    found = sha256_of_files(open_llama(llm))
    if expected != found:
      raise ValueError(
        f'{llm}: its weights are not those that {path.parent} was trained with:'
        f' sha256 is {found}, not {expected}'
      )
  return load_projector(path.parent)


def check_adapter_sizes(
  adapter: CTCAdapter | StrideAdapter, encoder_size: int, llm: LlamaConfig
) -> None:
  """ValueError unless the adapter joins this encoder and this LLM."""
  have = (adapter.config.encoder_size, adapter.config.llm_size)
  want = (encoder_size, llm.hidden_size)
  if have != want:
    raise ValueError(
      f'the adapter joins widths {have[0]} and {have[1]}; the encoder and the LLM of'
      f' this config have {want[0]} and {want[1]}'
    )
  if isinstance(adapter, CTCAdapter):
    highest, limit = int(jnp.max(adapter.vocabulary[...])), llm.vocab_size
    if highest >= limit:
      raise ValueError(f'the adapter writes token {highest}; the LLM has {limit}')


def load_model(
  config: ml_collections.ConfigDict, checkpoint: str | None = None
) -> SpeechLLM:
  """The whole model with a trained adapter."""
  adapter = load_trained_adapter(config, checkpoint)
  encoder, llama = load_encoder(config, checkpoint), load_frozen_llama(config)
  check_adapter_sizes(adapter, encoder.config.output_size, llama.config)
  return SpeechLLM(encoder, adapter, llama)
