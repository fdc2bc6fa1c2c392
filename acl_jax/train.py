# SPDX-License-Identifier: Apache-2.0
"""Program: train an adapter through which a frozen LLM answers speech as it does text.

  python -m acl_jax.train --config=configs/smol.py --workdir=runs/smol

Two stages from one config, both resumable: `ctc` trains a CTC adapter to recognise the
LLM's tokens or a stride adapter to return their embeddings, or `transcription` an
attention adapter to write them; `response` trains the LLM's responses to the
transcripts. Run it again to resume. Exit code 42: preempted after saving.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from acl_jax import assets, build, build_adapter, lora, stages
from acl_jax.batches.ctc import CTCBatchAssembler, CTCLabels
from acl_jax.batches.encoded import encode_corpus
from acl_jax.batches.log_mels import LogMelCorpus
from acl_jax.batches.orders import open_corpora
from acl_jax.batches.source import SpeechSource
from acl_jax.batches.tokens import CorpusTokens
from acl_jax.config.experiment import TrainConfig, parse_train
from acl_jax.config.sections import AttentionConfig
from acl_jax.models.protocols import Adapter, Encoder
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime import (
  compilation_cache,
  config_flag,
  distributed,
  preemption,
  program,
)
from acl_jax.sharding.arrays import to_host
from acl_jax.sharding.mesh import make_mesh
from acl_jax.text.frontend import TextFrontend
from acl_jax.tpu import xla_flags
from acl_jax.training import startup
from acl_jax.training.workdir import own_workdir
from acl_jax.weights.adapter import save_adapter
from data_pipeline.mixture import Corpora


def train(config: TrainConfig, workdir: Path) -> SpeechLLM:
  """Train both stages; writes `workdir/adapter.safetensors` and returns the model.

  What trains of the encoder is written to `workdir/encoder`, as a folder of Hugging
  Face or, by LoRA, of PEFT; low-rank updates of the LLM to `workdir/llama`. ValueError
  if another program writes to `workdir`.
  """
  with own_workdir(workdir):
    return _train(config, workdir)


def _train(config: TrainConfig, workdir: Path) -> SpeechLLM:
  text = build.load_text_frontend(config.llama, config.template)
  initial = build.find_checkpoint(config.init_from) if config.init_from else None
  llama, fingerprints = lora.load_llama(config, initial)
  encoder, frozen_encoder = lora.load_encoder(config, initial)
  startup.mark_stage('models')
  corpora = open_corpora(config.data)
  source = open_speech(config, encoder, corpora, workdir)
  encoder_of_text = build_adapter.transcript_encoder(config.adapter, text.tokenizer)
  tokens = CorpusTokens.open(source, encoder_of_text, workdir)
  startup.mark_stage('speech')
  if initial is not None:
    adapter = build.load_trained_adapter(initial, config)
    build.set_beams(adapter, 1)  # greedy is what a step can afford
  else:
    sizes = encoder.config.output_size, llama.config.hidden_size
    adapter = new_adapter(config, sizes, tokens, text)
  fingerprints |= frozen_encoder | lora.prepare_adapter(config, adapter)
  model = SpeechLLM(encoder, adapter, llama)
  ctc_batches = CTCBatchAssembler(
    source,
    _labels(config, model),
    tokens,
    adapter.config.stack,
    config.sampled_classes,
    with_letters=adapter.letters,
  )
  corpus = corpora.corpus_indices(source.id_hashes)
  trainer = stages.Trainer(config, workdir, ctc_batches, corpus, fingerprints)
  if config.ctc and config.ctc.steps and adapter.kind in ('ctc', 'stride'):
    model = trainer.train_ctc(config.ctc, model, text)
  writing = config.transcription
  if writing and writing.steps and adapter.kind == 'attention':
    model = trainer.train_transcription(writing, model)
  if config.response and config.response.steps:
    model = trainer.train_response(config.response, model, text)
  save_trained(config, workdir, model, initial, fingerprints)
  return model


def _labels(config: TrainConfig, model: SpeechLLM) -> CTCLabels:
  """Return the classes of what the adapter learns to write."""
  if model.adapter.kind == 'stride' and config.ctc and config.ctc.steps:
    return CTCLabels(range(model.llama.config.vocab_size))
  return CTCLabels(model.adapter.token_ids())


def new_adapter(
  config: TrainConfig, sizes: tuple[int, int], tokens: CorpusTokens, text: TextFrontend
) -> Adapter:
  """Return an untrained adapter for the tokens that occur in the transcripts.

  sizes: width of encoder frames and of the LLM's embeddings. tokens: of the
  transcripts.
  """
  if isinstance(config.adapter, AttentionConfig):
    return build_adapter.new_attention_adapter(
      config.adapter, config.seed, *sizes, text.tokenizer
    )
  labels = CTCLabels.of_corpus(tokens)
  adapter: Any = build_adapter.new_adapter(
    config.adapter, config.seed, *sizes, labels.vocabulary, text.tokenizer.token_text
  )
  if adapter.recognises:
    adapter.bias[...] = labels.log_prior(tokens)
  return adapter


def open_speech(
  config: TrainConfig, encoder: Encoder, corpora: Corpora, workdir: Path
) -> SpeechSource:
  """Return the corpora as log-mel frames or, with a frozen encoder, encode them now."""
  augmentation = config.utterance_augmentation
  if not config.encoder.is_trained:
    return encode_corpus(encoder, corpora, workdir / 'frames', augmentation)
  return LogMelCorpus(corpora, encoder.config, augmentation)


def save_trained(
  config: TrainConfig,
  workdir: Path,
  model: SpeechLLM,
  initial: build.Checkpoint | None,
  fingerprints: Mapping[str, Any],
) -> None:
  """Write what trained; all processes must call it, and process 0 writes.

  initial: the checkpoint of `config.init_from`.
  """
  adapter, encoder = to_host((model.adapter, model.encoder))
  llama = lora.factors_to_host(model.llama)
  if jax.process_index():
    return
  section = config.adapter
  base = section.path if section.lora and isinstance(section, AttentionConfig) else ''
  silence = encoder.config.trailing_silence
  path = workdir / build.ADAPTER_FILE
  save_adapter(path, adapter, base=base, trailing_silence=silence)
  if config.encoder.trains == 'full':
    origin = build.find_encoder(config.encoder, initial)
    build.save_encoder(encoder, workdir / build.ENCODER_FOLDER, origin)
  if config.encoder.lora:
    lora.save_encoder_lora(config, encoder, workdir, fingerprints['encoder'])
  if config.llama.lora:
    lora.save_llama_lora(config, llama, workdir, fingerprints['llama'])
  print(f'train: {workdir / build.ADAPTER_FILE}', flush=True)


def main(argv: Sequence[str]) -> None:
  """Parse the config and train."""
  del argv
  config = parse_train(flags.FLAGS.config)
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  xla_flags.set_local_flags()
  startup.mark_stage('imports')
  distributed.initialize()
  preemption.install_handler()
  startup.mark_stage('processes')
  with jax.set_mesh(make_mesh(config.mesh.sizes)):
    train(config, Path(flags.FLAGS.workdir))


if __name__ == '__main__':
  # Here and not at import, because other programs have flags with the same names.
  config_flag.define(TrainConfig)
  flags.DEFINE_string('workdir', None, 'folder of all outputs')
  flags.mark_flags_as_required(['config', 'workdir'])
  program.run(main)
