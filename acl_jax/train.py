# SPDX-License-Identifier: Apache-2.0
"""Program: modal-invariance training, (recording, response) -> an adapter through which
a frozen LLM answers speech as it answers text.

  python -m acl_jax.train --config=configs/smol.py --workdir=runs/smol

Two stages from one config, each resumable: `ctc` teaches a CTC adapter to recognise the
LLM's own tokens (a stride adapter has no such stage); `response` the LLM's answers.
Run it again to continue. Exit code 42: preempted after saving.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags
from flax import nnx
from ml_collections import config_flags

from acl_jax import assets, build
from acl_jax.batches.ctc import CTCBatches, CTCLabels
from acl_jax.batches.encoded import EncodedCorpus, encode_corpus
from acl_jax.batches.log_mels import LogMelCorpus
from acl_jax.batches.orders import TOO_LONG, make_order, open_corpora
from acl_jax.batches.responses import ResponseBatches
from acl_jax.models.adapters import StrideAdapter
from acl_jax.models.ctc import CTCAdapter
from acl_jax.models.speech_llm import Encoder, SpeechLLM
from acl_jax.models.whisper import Whisper
from acl_jax.runtime import compilation_cache, distributed, preemption, program
from acl_jax.sharding.arrays import make_sharded, shard, to_host
from acl_jax.sharding.mesh import make_mesh
from acl_jax.sharding.rules import sharding_rules
from acl_jax.targets import filters
from acl_jax.targets.store import Targets
from acl_jax.text.frontend import TextFrontend
from acl_jax.tpu import xla_flags
from acl_jax.training import loop, startup, step
from acl_jax.training.journal import BatchFeed
from acl_jax.training.optimizer import make_optimizer
from acl_jax.training.workdir import open_workdir
from acl_jax.weights.adapter import save_adapter
from acl_jax.weights.fingerprint import describe
from data_pipeline.mixture import Corpora


def train(config: ml_collections.ConfigDict, workdir: Path) -> SpeechLLM:
  """Both stages; leaves `workdir/adapter.safetensors` and returns the model.

  An encoder that trains too is left in `workdir/encoder`, as a Hugging Face folder.
  """
  open_workdir(workdir)
  startup.mark_stage('imports')
  text, llama = build.load_text_frontend(config), build.load_frozen_llama(config)
  encoder = build.load_encoder(config, config.init_from)
  fingerprints: dict[str, Any] = {'llama': describe(llama)}
  if not config.encoder.trains:
    fingerprints['encoder'] = describe(encoder)
  startup.mark_stage('models')
  corpora = open_corpora(config.data)
  frames = open_speech(config, encoder, corpora, workdir)
  startup.mark_stage('recordings')
  if config.init_from:
    adapter = build.load_trained_adapter(config, config.init_from)
  else:
    sizes = encoder.config.output_size, llama.config.hidden_size
    labels = CTCLabels.of_corpus(frames.texts, text.tokenizer.encode)
    adapter = build.new_adapter(config, *sizes, labels.vocabulary, text.tokenizer.piece)
    if isinstance(adapter, CTCAdapter):
      adapter.bias[...] = labels.log_prior(frames.texts, text.tokenizer.encode)
  heard = adapter.vocabulary[...].tolist() if isinstance(adapter, CTCAdapter) else []
  model = SpeechLLM(encoder, adapter, llama)
  sounds = CTCBatches(
    frames,
    CTCLabels(heard),
    text.tokenizer.encode,
    adapter.config.stack,
    config.ctc.sampled_classes,
    spelt=isinstance(adapter, CTCAdapter) and adapter.config.letter_layers > 0,
  )
  corpus = corpora.corpus_of(frames.ids)
  if isinstance(adapter, CTCAdapter) and config.ctc.steps:
    model = run_ctc(config, workdir, model, sounds, corpus, fingerprints)
  if config.response.steps:
    model = run_response(config, workdir, model, sounds, corpus, text, fingerprints)
  save_trained(config, workdir, *to_host((model.adapter, model.encoder)))
  return model


def save_trained(
  config, workdir: Path, adapter: CTCAdapter | StrideAdapter, encoder: Encoder
) -> None:
  """Writes what was trained, in one process of all."""
  if jax.process_index():
    return
  save_adapter(workdir / build.ADAPTER_FILE, adapter)
  if config.encoder.trains:
    origin = build.find_encoder(config, config.init_from)
    build.save_encoder(encoder, workdir / build.ENCODER_FOLDER, origin)
  print(f'train: {workdir / build.ADAPTER_FILE}', flush=True)


def open_speech(
  config, encoder, corpora: Corpora, workdir: Path
) -> EncodedCorpus | LogMelCorpus:
  """The corpora as the model will hear them: a frozen encoder hears now, and once."""
  how = build.augmentation_config(config)
  if not config.encoder.trains:
    return encode_corpus(encoder, corpora, workdir / 'frames', how)
  if config.data.row_frames is not None and isinstance(encoder, Whisper):
    raise ValueError(
      'config.data.row_frames: a Whisper encoder that trains hears one recording a row;'
      ' None lays them out so'
    )
  return LogMelCorpus(corpora, encoder.config, how)


def run_ctc(config, workdir: Path, model, sounds, corpus, fingerprints) -> SpeechLLM:
  """The stage that needs no LLM pass."""
  lengths, budget = sounds.lengths()[:, None], config.ctc.frames_per_batch
  order = make_order(config.data, budget, config.seed, lengths, corpus)
  loss = functools.partial(step.ctc_loss, encoder_trains=config.encoder.trains)
  feed = BatchFeed(order, sounds, sounds.source.frame_seconds, sounds.source.ids)
  return run_stage('ctc', config, workdir, model, feed, loss, fingerprints)


def run_response(
  config, workdir: Path, model, sounds, corpus, text: TextFrontend, fingerprints
) -> SpeechLLM:
  """The stage that imitates the responses."""
  data, how = config.data, config.response
  filters.check_flags(data.leave_out)
  targets = Targets(data.targets, data.leave_out)
  targets.check(fingerprints['llama'], text)
  if not any(id in targets for id in sounds.source.ids):
    raise ValueError(f'{data.targets}: no response to any recording of the corpus')
  top_k = config.targets.top_k if how.kl_weight else 0
  row_tokens = None if data.row_frames is None else data.row_tokens
  assemble = ResponseBatches(sounds, text, targets, top_k, row_tokens)
  lengths = assemble.lengths()
  tokens = lengths[lengths[:, 1] < TOO_LONG, 1]
  longest = len(assemble.prefix) + int(tokens.max())
  if longest > (limit := model.llama.config.max_position_embeddings):
    raise ValueError(f'a prompt has up to {longest} positions; the LLM reads {limit}')
  order = make_order(data, how.frames_per_batch, config.seed + 1, lengths, corpus)
  weights = step.ResponseLossConfig(
    how.kl_weight, how.kl_temperature, how.ctc_weight, how.remat
  )
  loss = functools.partial(
    step.response_loss, encoder_trains=config.encoder.trains, how=weights
  )
  feed = BatchFeed(order, assemble, sounds.source.frame_seconds, sounds.source.ids)
  return run_stage('response', config, workdir, model, feed, loss, fingerprints)


def run_stage(
  name: str,
  config: ml_collections.ConfigDict,
  workdir: Path,
  model: SpeechLLM,
  feed: BatchFeed,
  loss: Callable,
  fingerprints: Mapping[str, Any],
) -> SpeechLLM:
  """Trains to the last step, from the newest sound checkpoint on."""
  trains = step.trainable_filter(config.encoder.trains)
  graphdef, trainable, frozen = nnx.split(model, trains, ...)
  trainable, frozen = (
    shard(trainable),
    shard(frozen, sharding_rules(config.llama.sharding)),
  )
  optimizer = make_optimizer(config[name], config.encoder.lr_scale)
  state = step.TrainState(trainable, make_sharded(optimizer.init, trainable))
  update = functools.partial(
    step.train_step, frozen=frozen, graphdef=graphdef, optimizer=optimizer, loss=loss
  )
  startup.mark_stage('batches')
  state = loop.run(name, config, workdir, state, feed, update, fingerprints)
  return nnx.merge(graphdef, state.trainable, frozen)


def main(argv: Sequence[str]) -> None:
  """Runs `train` with the flags."""
  del argv
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  xla_flags.set_local_flags()
  distributed.initialize()
  preemption.install_handler()
  config: ml_collections.ConfigDict = flags.FLAGS.config
  with jax.set_mesh(make_mesh(config.mesh)):
    train(config, Path(flags.FLAGS.workdir))


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('workdir', None, 'folder for everything that training makes')
  flags.mark_flags_as_required(['config', 'workdir'])
  program.run(main)
