# SPDX-License-Identifier: Apache-2.0
"""Program: CTC pretraining, recordings and transcripts -> a Conformer that recognises.

  python -m acl_jax.pretrain --config=configs/smol_ctc.py --workdir=runs/smol_ctc

Leaves `workdir/encoder`, a folder that `config.encoder.path` of the other programs and
Transformers' `ParakeetForCTC` read, and beside its weights the vocabulary, trained from
the corpus' transcripts. Run it again to continue. Exit code 42: preempted after saving.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from flax import nnx
from ml_collections import config_flags

from acl_jax import assets, build
from acl_jax.batches.encoded import LENGTH_STEP, length_batches
from acl_jax.batches.log_mels import AugmentationConfig, LogMelCorpus
from acl_jax.batches.orders import make_order, open_corpora
from acl_jax.batches.pretraining import PretrainBatches
from acl_jax.evaluation.summary import word_error_rate
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.runtime import (
  barriers,
  compilation_cache,
  distributed,
  preemption,
  program,
)
from acl_jax.runtime.rounding import round_up
from acl_jax.sharding.arrays import make_sharded, shard, to_host
from acl_jax.sharding.mesh import make_mesh
from acl_jax.text import ctc_vocabulary
from acl_jax.text.ctc_vocabulary import Vocabulary
from acl_jax.tpu import xla_flags
from acl_jax.training import loop, pretraining, startup
from acl_jax.training.journal import BatchFeed
from acl_jax.training.optimizer import make_optimizer
from acl_jax.training.pretraining import PretrainModel, PretrainState
from acl_jax.training.workdir import open_workdir
from acl_jax.weights.parakeet import load_conformer
from data_pipeline.batches import pad_frames
from data_pipeline.records import Dataset

MINUTES = 60.0  # to train a vocabulary, which process 0 does for all
DEV_FRAMES = 8_000  # log-mel frames of a batch that is only recognised


def pretrain(config: ml_collections.ConfigDict, workdir: Path) -> ConformerCTC:
  """Trains, and leaves `workdir/encoder`; returns the model."""
  folder = open_workdir(workdir) / build.ENCODER_FOLDER
  folder.mkdir(exist_ok=True)
  startup.mark_stage('imports')
  dataset = open_corpora(config.data)
  vocabulary = find_vocabulary(config, folder, dataset.texts)
  model = new_model(config, vocabulary)
  stage = config.ctc
  head = make_sharded(
    lambda: pretraining.new_letter_head(stage, model.config, config.seed)
  )
  corpus = LogMelCorpus(dataset, model.config, build.augmentation_config(config))
  transcripts = PretrainBatches(corpus, vocabulary, stage.letters.per_frame)
  startup.mark_stage('recordings')
  order = make_order(
    *(config.data, stage.frames_per_batch, config.seed),
    *(transcripts.lengths[:, None], dataset.corpus_of(corpus.ids)),
  )
  graphdef, trainable, statistics = pretraining.split(PretrainModel(model, head))
  optimizer = make_optimizer(stage)
  trainable, statistics = shard((trainable, statistics))
  copy = jax.tree.map(jnp.copy, (trainable, statistics))  # donated apart
  state = PretrainState(
    trainable, statistics, make_sharded(optimizer.init, trainable), copy
  )
  update = functools.partial(
    pretraining.pretrain_step,
    graphdef=graphdef,
    optimizer=optimizer,
    how=pretraining.step_config(stage),
  )
  feed = BatchFeed(order, transcripts, corpus.frame_seconds, corpus.ids)
  measure = measure_dev(config, model.config, graphdef, vocabulary)
  startup.mark_stage('model')
  state = loop.run('ctc', config, workdir, state, feed, update, {}, measure)
  model = pretraining.averaged_model(state, graphdef)
  whole = to_host(model)
  if jax.process_index() == 0:
    build.save_encoder(whole, folder, Path(config.init_from or folder))
    print(f'pretrain: {folder}', flush=True)
  return model


def find_vocabulary(config, folder: Path, texts: Sequence[str]) -> Vocabulary:
  """The vocabulary of `config.init_from`, or the one trained from the transcripts."""
  if config.init_from:
    return Vocabulary(config.init_from)
  path = folder / ctc_vocabulary.FILES[0]
  if jax.process_index() == 0 and not path.exists():
    ctc_vocabulary.train_vocabulary(
      texts, config.vocabulary_size, path, config.max_piece_length
    )
  barriers.wait('vocabulary', MINUTES)
  vocabulary = Vocabulary(folder)
  size, longest = len(vocabulary), vocabulary.longest
  wrong = None
  if size != config.vocabulary_size:
    wrong = f'{size} pieces, config.vocabulary_size says {config.vocabulary_size}'
  elif longest > config.max_piece_length:
    wrong = (
      f'pieces of {longest} characters, config.max_piece_length says'
      f' {config.max_piece_length}'
    )
  if wrong:
    raise ValueError(f'{path} has {wrong}; another vocabulary needs another workdir')
  return vocabulary


def new_model(config, vocabulary: Vocabulary) -> ConformerCTC:
  """An untrained model of the config's sizes, or the one that it starts from."""
  sizes = ConformerConfig(**config.encoder.sizes)
  if not config.init_from:
    return make_sharded(
      lambda: ConformerCTC(sizes, len(vocabulary) + 1, rngs=nnx.Rngs(config.seed))
    )
  model = load_conformer(config.init_from)
  if not isinstance(model, ConformerCTC):
    raise ValueError(f'{config.init_from}: the encoder has no CTC head to train')
  if model.config != sizes:
    raise ValueError(
      f'{config.init_from}: its encoder is {model.config}, config.encoder.sizes says'
      f' {sizes}'
    )
  return model


def measure_dev(
  config, sizes: ConformerConfig, graphdef, vocabulary: Vocabulary
) -> Callable[[PretrainState], dict[str, float]] | None:
  """What measures the word error rate on a prepared folder, if the config names one."""
  if not config.data.dev:
    return None
  corpus = LogMelCorpus(Dataset(config.data.dev), sizes, AugmentationConfig())
  batches = [*length_batches(corpus.lengths * sizes.subsampling, DEV_FRAMES)]

  def measure(state: PretrainState) -> dict[str, float]:
    model, heard = pretraining.averaged_model(state, graphdef), {}
    for rows, members in batches:
      mels = [record['frames'] for record in corpus.read(members)]
      for i, ids in zip(members, transcribe(model, mels, rows), strict=True):
        heard[i] = vocabulary.decode(ids)
    rate = word_error_rate(corpus.texts, [heard[i] for i in range(len(corpus))])
    return {} if rate is None else {'dev_wer': rate}

  return measure


def transcribe(
  model: ConformerCTC, mels: Sequence[np.ndarray], rows: int
) -> list[list[int]]:
  """CTC's hard decision about each spectrogram; computed as `rows` rows."""
  length = round_up(max(map(len, mels)), LENGTH_STEP)
  found = np.asarray(to_host(_greedy(model, *pad_frames(mels, rows, length))))
  return [row[row >= 0].tolist() for row in found[: len(mels)]]


_greedy = jax.jit(lambda model, log_mel, valid: model.greedy(*model(log_mel, valid)))


def main(argv: Sequence[str]) -> None:
  """Runs `pretrain` with the flags."""
  del argv
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  xla_flags.set_local_flags()
  distributed.initialize()
  preemption.install_handler()
  config: ml_collections.ConfigDict = flags.FLAGS.config
  with jax.set_mesh(make_mesh(config.mesh)):
    pretrain(config, Path(flags.FLAGS.workdir))


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('workdir', None, 'folder for everything that pretraining makes')
  flags.mark_flags_as_required(['config', 'workdir'])
  program.run(main)
