# SPDX-License-Identifier: Apache-2.0
"""Program: pretrain a Conformer with CTC on utterances and their transcripts.

  python -m acl_jax.pretrain --config=configs/smol_ctc.py --workdir=runs/smol_ctc

Writes `workdir/encoder`, which `config.encoder.path` of the other programs and
Transformers' `ParakeetForCTC` read. It contains the weights and the vocabulary, which
is trained on the transcripts. Run it again to resume. Exit code 42: preempted after
saving.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from jaxtyping import Float

from acl_jax import assets, build
from acl_jax.batches.log_mels import LogMelCorpus
from acl_jax.batches.orders import make_order, open_corpora
from acl_jax.batches.padded import group_by_length, pad_to_step
from acl_jax.batches.pretraining import PretrainBatchAssembler
from acl_jax.batches.tokens import CorpusTokens
from acl_jax.config.experiment import PretrainConfig, parse_pretrain
from acl_jax.config.sections import AugmentationConfig
from acl_jax.evaluation.summary import word_error_rate
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.runtime import (
  barriers,
  compilation_cache,
  config_flag,
  distributed,
  preemption,
  program,
)
from acl_jax.sharding.arrays import make_sharded, shard, to_host
from acl_jax.sharding.mesh import make_mesh
from acl_jax.text import ctc_vocabulary
from acl_jax.text.ctc_vocabulary import Vocabulary
from acl_jax.tpu import xla_flags
from acl_jax.training import loop, pretraining, startup
from acl_jax.training.journal import BatchFeed
from acl_jax.training.optimizer import make_optimizer
from acl_jax.training.pretraining import PretrainModel, PretrainState
from acl_jax.training.workdir import own_workdir
from acl_jax.weights.parakeet import load_conformer
from data_pipeline.records import Dataset

VOCABULARY_MINUTES = 60.0  # that other processes wait while process 0 trains it
DEV_FRAMES = 8_000  # log-mel frames of a batch when measuring word error rates


def pretrain(config: PretrainConfig, workdir: Path) -> ConformerCTC:
  """Pretrain and write `workdir/encoder`; returns the model of averaged parameters.

  ValueError if another program writes to `workdir`.
  """
  with own_workdir(workdir):
    return _pretrain(config, workdir)


def _pretrain(config: PretrainConfig, workdir: Path) -> ConformerCTC:
  folder = workdir / build.ENCODER_FOLDER
  folder.mkdir(exist_ok=True)
  corpora = open_corpora(config.data)
  vocabulary = find_vocabulary(config, folder, corpora.texts)
  model = new_model(config, vocabulary)
  stage = config.ctc
  letter_head = make_sharded(
    lambda: pretraining.new_letter_head(stage.letters, model.config, config.seed)
  )
  source = LogMelCorpus(corpora, model.config, config.utterance_augmentation)
  tokens = CorpusTokens.open(source, vocabulary.text_encoder(), workdir)
  assembler = PretrainBatchAssembler(source, tokens, stage.letters_per_frame)
  startup.mark_stage('speech')
  order = make_order(
    config.data,
    stage.frames_per_batch,
    config.seed,
    assembler.lengths[:, None],
    corpora.corpus_indices(source.id_hashes),
  )
  pretrain_model = PretrainModel(model, letter_head)
  graphdef, trainable, statistics = pretraining.split(pretrain_model)
  optimizer = make_optimizer(stage)
  trainable, statistics = shard((trainable, statistics))
  # A copy, because a step donates every array of the state once.
  average = jax.tree.map(jnp.copy, (trainable, statistics))
  state = PretrainState(
    trainable, statistics, make_sharded(optimizer.init, trainable), average
  )
  update = functools.partial(
    pretraining.pretrain_step, graphdef=graphdef, optimizer=optimizer, stage=stage
  )
  feed = BatchFeed(order, assembler, source.frame_seconds, source.ids)
  measure = make_dev_measure(config, model.config, graphdef, vocabulary)
  startup.mark_stage('model')
  state = loop.run('ctc', config, workdir, state, feed, update, {}, measure)
  model = pretraining.averaged_model(state, graphdef)
  on_host = to_host(model)
  if jax.process_index() == 0:
    build.save_encoder(on_host, folder, Path(config.init_from or folder))
    print(f'pretrain: {folder}', flush=True)
  return model


def find_vocabulary(
  config: PretrainConfig, folder: Path, texts: Sequence[str]
) -> Vocabulary:
  """Read the vocabulary of `config.init_from`, or train one on the transcripts.

  ValueError if an earlier run trained it with other settings.
  """
  if config.init_from:
    return Vocabulary(config.init_from)
  path = folder / ctc_vocabulary.FILES[0]
  if jax.process_index() == 0 and not path.exists():
    ctc_vocabulary.train_vocabulary(
      texts, config.vocabulary_size, path, config.max_piece_length
    )
  barriers.wait('vocabulary', VOCABULARY_MINUTES)
  vocabulary = Vocabulary(folder)
  size, longest = len(vocabulary), vocabulary.max_piece_length
  if size != config.vocabulary_size:
    raise ValueError(
      f'{path} has {size} pieces; config.vocabulary_size is {config.vocabulary_size}.'
      ' Use another --workdir for another vocabulary'
    )
  if longest > config.max_piece_length:
    raise ValueError(
      f'{path} has pieces of {longest} characters; config.max_piece_length is'
      f' {config.max_piece_length}. Use another --workdir for another vocabulary'
    )
  return vocabulary


def new_model(config: PretrainConfig, vocabulary: Vocabulary) -> ConformerCTC:
  """Return an untrained model, or the one of `config.init_from`."""
  sizes = config.encoder.sizes
  if not config.init_from:
    return make_sharded(
      lambda: ConformerCTC(sizes, len(vocabulary) + 1, rngs=nnx.Rngs(config.seed))
    )
  model = load_conformer(config.init_from)
  if not isinstance(model, ConformerCTC):
    raise ValueError(f'{config.init_from}: this encoder has no CTC head')
  if model.config != sizes:
    raise ValueError(
      f'{config.init_from}: the encoder has the sizes {model.config};'
      f' config.encoder.sizes is {sizes}'
    )
  return model


def make_dev_measure(
  config: PretrainConfig, sizes: ConformerConfig, graphdef, vocabulary: Vocabulary
) -> Callable[[PretrainState], dict[str, float]] | None:
  """Return a function for the word error rate on `config.data.dev`, if it is set."""
  if not config.data.dev:
    return None
  corpus = LogMelCorpus(Dataset(config.data.dev), sizes, AugmentationConfig())
  lengths = (corpus.lengths * sizes.subsampling).tolist()
  by_length = sorted(range(len(corpus)), key=lengths.__getitem__)
  batches = list(group_by_length(by_length, lengths.__getitem__, DEV_FRAMES))

  def measure(state: PretrainState) -> dict[str, float]:
    model = pretraining.averaged_model(state, graphdef)
    transcripts = [''] * len(corpus)
    for rows, members in batches:
      preemption.raise_if_requested('measuring word error rates')
      log_mels = [record['frames'] for record in corpus.read(members)]
      for i, ids in zip(members, transcribe(model, log_mels, rows), strict=True):
        transcripts[i] = vocabulary.decode(ids)
    rate = word_error_rate(list(corpus.texts), transcripts)
    return {} if rate is None else {'dev_wer': rate}

  return measure


def transcribe(
  model: ConformerCTC, log_mels: Sequence[Float[np.ndarray, '_ m']], rows: int
) -> list[list[int]]:
  """Decode spectrograms greedily, as one batch of `rows` rows; returns piece ids."""
  padded = pad_to_step(log_mels, rows, model.config.max_frames)
  classes = np.asarray(to_host(_decode(model, *padded)))
  return [row[row >= 0].tolist() for row in classes[: len(log_mels)]]


@jax.jit
def _decode(model, log_mel, frame_mask):
  return model.greedy(*model(log_mel, frame_mask))


def main(argv: Sequence[str]) -> None:
  """Parse the config and pretrain."""
  del argv
  config = parse_pretrain(flags.FLAGS.config)
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  xla_flags.set_local_flags()
  startup.mark_stage('imports')
  distributed.initialize()
  preemption.install_handler()
  startup.mark_stage('processes')
  with jax.set_mesh(make_mesh(config.mesh.sizes)):
    pretrain(config, Path(flags.FLAGS.workdir))


if __name__ == '__main__':
  # Here and not at import, because other programs have flags with the same names.
  config_flag.define(PretrainConfig)
  flags.DEFINE_string('workdir', None, 'folder of all outputs')
  flags.mark_flags_as_required(['config', 'workdir'])
  program.run(main)
