# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from transformers import ParakeetForCTC

from acl_jax import build, train
from acl_jax.batches.encoded import EncodedCorpus, length_batches
from acl_jax.batches.log_mels import AugmentationConfig, LogMelCorpus
from acl_jax.batches.orders import make_order
from acl_jax.batches.pretraining import PretrainBatches
from acl_jax.evaluation import examples
from acl_jax.evaluation.hearing import encode_utterances
from acl_jax.models.conformer_ctc import LetterHead
from acl_jax.models.ctc import BLANK
from acl_jax.models.layers import unpack_segments
from acl_jax.models.spelling import ALPHABET
from acl_jax.pretrain import new_model, pretrain, transcribe
from acl_jax.text.ctc_vocabulary import Vocabulary
from acl_jax.text.layout import NO_AUDIO
from acl_jax.training import pretraining
from acl_jax.weights.parakeet import load_conformer
from data_pipeline.batches import BatchPlan
from data_pipeline.records import Dataset
from tests.tiny_world import load_config

SIZES = dict(
  hidden_size=16,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=24,
  conv_kernel_size=3,
  subsampling_conv_channels=8,
  num_mel_bins=80,
  subsampling_factor=2,  # the recordings of the tiny world are short
)
STEPS = 4


def new_config(world, **ctc):
  c = ConfigDict()
  c.seed, c.init_from, c.vocabulary_size, c.max_piece_length = 0, '', 20, 16
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.encoder = dict(kind='conformer', sizes=dict(SIZES))
  prepared = str(world / 'prepared')
  c.data = dict(train=prepared, dev=prepared, copies=1, row_frames=None, buckets=(50,))
  c.augmentation = c.masking = None
  stage = dict(steps=STEPS, frames_per_batch=300, average_decay=0.5, remat=None)
  stage |= dict(letters=dict(layer=1, per_frame=2, weight=0.5))
  stage |= dict(peak_lr=3e-3, warmup_steps=2, weight_decay=0.0, clip_norm=1.0)
  c.ctc = stage | dict(log_every=1, save_every=2) | ctc
  return c


@pytest.fixture(scope='module')
def pretrained(tiny_world, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('pretrained')
  return workdir, pretrain(new_config(tiny_world), workdir)


def entries(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_it_leaves_a_folder_that_transformers_reads(pretrained):
  workdir, model = pretrained
  folder = workdir / build.ENCODER_FOLDER
  theirs = ParakeetForCTC.from_pretrained(folder)
  assert theirs.config.vocab_size == len(Vocabulary(folder)) + 1 == 21
  jax.tree.map(np.testing.assert_array_equal, model, load_conformer(folder))


def test_it_logs_losses_and_word_errors(pretrained):
  found = entries(pretrained[0])
  assert [entry['step'] for entry in found] == [1, 2, 3, 4]
  assert ['dev_wer' in entry for entry in found] == [False, True, False, True]
  assert found[-1]['loss'] < found[0]['loss'] and found[0]['padding_waste'] > 0


def test_measuring_changes_nothing(tiny_world, pretrained, tmp_path):
  config = new_config(tiny_world)
  config.data.dev = ''
  unmeasured = pretrain(config, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, unmeasured, pretrained[1])


def test_averages_and_statistics_move(tiny_world, pretrained):
  _, model = pretrained
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  start = new_model(new_config(tiny_world), vocabulary)
  before, after = (dict(nnx.to_flat_state(nnx.state(m))) for m in (start, model))
  for path, variable in before.items():
    assert (after[path][...] != variable[...]).any(), path


def test_batches_hold_transcripts_and_their_padding_changes_nothing(
  tiny_world, pretrained
):
  folder = pretrained[0] / build.ENCODER_FOLDER
  vocabulary = Vocabulary(folder)
  model = new_model(new_config(tiny_world), vocabulary)
  corpus = LogMelCorpus(
    Dataset(tiny_world / 'prepared'), model.config, AugmentationConfig()
  )
  batch = PretrainBatches(corpus, vocabulary)(BatchPlan(((1,), (4,)), 3, 50, 50))
  assert batch.log_mel.shape == (3, 100, 80) and batch.labels.shape == (3, 1, 50)
  assert (batch.frame_index[2] == NO_AUDIO).all() and batch.frame_index[1, 0, 0] == 0
  valid = batch.segment_ids > 0
  assert valid.sum(1).tolist() == [
    len(corpus[1]['frames']),
    len(corpus[4]['frames']),
    0,
  ]
  text = [int(i) - 1 for i in batch.labels[0, 0] if i != BLANK]
  assert text == vocabulary.encode(corpus.texts[1])

  @jax.jit
  def loss(batch):
    frames = model.encode(batch.log_mel, batch.segment_ids).frames
    return pretraining.transcript_loss(model, frames, batch)

  dirty = np.where(valid[..., None], batch.log_mel, 7.0)
  assert loss(batch) == loss(batch._replace(log_mel=dirty))


def test_letters_are_read_from_the_middle_and_padding_changes_none(
  tiny_world, pretrained
):
  """Each of a frame's shorter frames has its own scores; only signal is asked."""
  model = pretrained[1]
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  corpus = LogMelCorpus(
    Dataset(tiny_world / 'prepared'), model.config, AugmentationConfig()
  )
  transcripts = PretrainBatches(corpus, vocabulary, letters_per_frame=2)
  batch = transcripts(BatchPlan(((1,), (4,)), 3, 50, 50))
  assert batch.letters.shape == (3, 1, 100) and not batch.letters[2].any()
  told = [ALPHABET[i - 1] for i in batch.letters[0, 0] if i != BLANK]
  assert ''.join(told) == corpus.texts[1].lower().strip('.?!')
  head = LetterHead(model.config.hidden_size, 2, rngs=nnx.Rngs(3))
  encoded = jax.jit(model.encode)(batch.log_mel, batch.segment_ids)
  np.testing.assert_array_equal(encoded.of_layer[-1], encoded.frames)
  logits, valid = head(encoded.of_layer[0], encoded.segment_ids > 0)
  classes = 1 + len(ALPHABET)
  assert logits.shape == (3, 100, classes) and valid.sum() == 2 * np.sum(
    np.asarray(encoded.segment_ids) > 0
  )
  plain = head.linear(encoded.of_layer[0])
  np.testing.assert_array_equal(logits[:, 1::2], plain[..., classes:])

  @jax.jit
  def loss(batch):
    frames = model.encode(batch.log_mel, batch.segment_ids).of_layer[0]
    return pretraining.letter_loss(head, frames, batch)

  dirty = np.where(batch.segment_ids[..., None] > 0, batch.log_mel, 7.0)
  assert loss(batch) == loss(batch._replace(log_mel=dirty)) > 0


def test_letters_that_cannot_be_read_are_refused(tiny_world, tmp_path):
  config = new_config(tiny_world)
  config.ctc.letters.layer = 3
  with pytest.raises(ValueError, match='letters.layer = 3; .* has layers 1 to 2'):
    pretrain(config, tmp_path)
  config.ctc.letters.per_frame = -1
  with pytest.raises(ValueError, match='letters.per_frame = -1; 0 is no letters'):
    pretrain(config, tmp_path)


def test_a_transcript_of_more_letters_than_frames_is_left_out(
  tiny_world, pretrained, caplog
):
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  corpus = LogMelCorpus(
    Dataset(tiny_world / 'prepared'), pretrained[1].config, AugmentationConfig()
  )
  word = max(map(vocabulary.decode, ([i] for i in range(1, len(vocabulary)))), key=len)
  pieces = int(corpus.lengths[0]) * 2 // (len(word) + 1)
  corpus.texts[0] = ' '.join([word] * pieces)
  lengths = PretrainBatches(corpus, vocabulary, letters_per_frame=1).lengths
  assert lengths[0] > 1_000 > lengths[1]
  assert 'letters; it has' in caplog.text


def test_packed_recordings_lose_what_they_lose_alone(tiny_world, pretrained):
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  model = pretrained[1]
  corpus = LogMelCorpus(
    Dataset(tiny_world / 'prepared'), model.config, AugmentationConfig()
  )
  transcripts = PretrainBatches(corpus, vocabulary)
  config = new_config(tiny_world)
  config.data.row_frames = 120
  lengths = transcripts.lengths[:, None]
  budget, corpus = config.ctc.frames_per_batch, np.zeros(len(lengths), int)
  order = make_order(config.data, budget, 0, lengths, corpus)
  batch = transcripts(order[0])
  members = order[0].indices
  assert len(members) > len(order[0].utterances) > 1

  @jax.jit
  def logits(batch):
    frames = model.encode(batch.log_mel, batch.segment_ids).frames
    return model.logits(unpack_segments(frames, jnp.asarray(batch.frame_index))[0])

  packed = np.reshape(
    logits(batch), (*batch.frame_index.shape[:2], order[0].longest, -1)
  )
  for b, row in enumerate(order[0].utterances):
    for k, i in enumerate(row):
      alone = transcripts(BatchPlan(((i,),), 1, 50, 50))
      count = transcripts.lengths[i]
      np.testing.assert_allclose(
        packed[b, k, :count], logits(alone)[0, :count], atol=1e-5
      )
      text = batch.labels[b, k][batch.labels[b, k] != BLANK]
      assert text.tolist() == alone.labels[0, 0, : len(text)].tolist()


def test_packed_training_learns(tiny_world, tmp_path):
  config = new_config(tiny_world)
  config.data.row_frames = 120
  pretrain(config, tmp_path)
  found = entries(tmp_path)
  assert found[-1]['loss'] < found[0]['loss']
  config.ctc.frames_per_batch = 100
  with pytest.raises(ValueError, match='frames_per_batch = 100 holds no row of .* 120'):
    pretrain(config, tmp_path)


def test_what_ctc_cannot_learn_is_left_out_and_said(tiny_world, pretrained, caplog):
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  corpus = LogMelCorpus(
    Dataset(tiny_world / 'prepared'), pretrained[1].config, AugmentationConfig()
  )
  corpus.texts[0], corpus.texts[1], corpus.texts[2] = ' ?! ', 'ж', corpus.texts[2] * 40
  transcripts = PretrainBatches(corpus, vocabulary)
  far = transcripts.lengths > 1_000
  assert far.tolist() == [True] * 3 + [False] * (len(corpus) - 3)
  said = ' | '.join(record.getMessage() for record in caplog.records)
  assert 'its transcript has neither letters nor digits' in said
  assert "no piece of the vocabulary has 'ж'" in said
  assert 'CTC needs' in said


def test_recognising_in_a_batch_is_recognising_alone(tiny_world, pretrained):
  _, model = pretrained
  corpus = LogMelCorpus(
    Dataset(tiny_world / 'prepared'), model.config, AugmentationConfig()
  )
  mels = [record['frames'] for record in corpus.read(range(3))]
  assert transcribe(model, mels, 3) == [transcribe(model, [mel], 1)[0] for mel in mels]


def test_batches_hold_all_and_no_more_than_the_budget():
  lengths = [50, 300, 70, 70, 500, 120]
  batches = [members for _, members in length_batches(lengths, 400)]
  assert sorted(sum(batches, [])) == list(range(6))
  assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 400 for b in batches)


def test_another_encoder_to_start_from(tiny_world, pretrained):
  config = new_config(tiny_world)
  config.init_from = str(pretrained[0] / build.ENCODER_FOLDER)
  vocabulary = Vocabulary(config.init_from)
  model = new_model(config, vocabulary)
  jax.tree.map(np.testing.assert_array_equal, model, pretrained[1])
  config.encoder.sizes.hidden_size = 18
  with pytest.raises(ValueError, match='its encoder is .*hidden_size=16.*says.*=18'):
    new_model(config, vocabulary)


def test_what_started_from_a_folder_keeps_its_vocabulary(
  tiny_world, pretrained, tmp_path
):
  config = new_config(tiny_world, steps=1)
  config.init_from = str(pretrained[0] / build.ENCODER_FOLDER)
  pretrain(config, tmp_path)
  theirs, ours = Vocabulary(config.init_from), Vocabulary(tmp_path / 'encoder')
  assert ours.decode(range(20)) == theirs.decode(range(20))


def test_a_vocabulary_of_another_size_is_refused(tiny_world, pretrained, tmp_path):
  shutil.copytree(pretrained[0] / 'encoder', tmp_path / 'encoder')
  config = new_config(tiny_world)
  config.vocabulary_size = 24
  with pytest.raises(ValueError, match='has 20 pieces, config.vocabulary_size says 24'):
    pretrain(config, tmp_path)


def test_a_vocabulary_of_longer_pieces_is_refused(tiny_world, pretrained, tmp_path):
  shutil.copytree(pretrained[0] / 'encoder', tmp_path / 'encoder')
  config = new_config(tiny_world)
  longest = Vocabulary(tmp_path / 'encoder').longest
  config.max_piece_length = longest - 1
  said = f'of {longest} characters, config.max_piece_length says {longest - 1};'
  with pytest.raises(ValueError, match=said):
    pretrain(config, tmp_path)


def test_a_checkpoint_of_another_encoder_is_refused(tiny_world, pretrained, tmp_path):
  shutil.copytree(pretrained[0], tmp_path, dirs_exist_ok=True)
  config = new_config(tiny_world)
  config.encoder.sizes.intermediate_size = 32
  with pytest.raises(ValueError, match='of another model than this config makes'):
    pretrain(config, tmp_path)


def test_the_program_says_what_is_missing(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'acl_jax.pretrain', '--config=configs/smol_ctc.py']
    + [f'--workdir={tmp_path}', f'--config.data.train={tmp_path}/none'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert 'none/dataset.json: not found' in done.stderr.splitlines()[-1]


def test_training_starts_from_it_and_the_report_has_its_word_errors(
  tiny_world, pretrained, tmp_path
):
  """A stride adapter on top, the encoder training too, its own head left alone."""
  folder = pretrained[0] / build.ENCODER_FOLDER
  encoder = {'kind': 'conformer', 'path': str(folder), 'trains': True}
  changes = {f'encoder.{name}': value for name, value in encoder.items()}
  config = load_config(tiny_world, **changes, **{'response.steps': 2})
  config.adapter = dict(kind='stride', stack=3, hidden_size=16)
  model = train.train(config, tmp_path)
  before, after = pretrained[1], build.load_model(config, str(tmp_path))
  jax.tree.map(np.testing.assert_array_equal, after.encoder, model.encoder)
  jax.tree.map(np.testing.assert_array_equal, after.encoder.ctc_head, before.ctc_head)
  moved = after.encoder.encoder.layers.self_attn.bias_u[...]
  assert (moved != before.encoder.layers.self_attn.bias_u[...]).any()
  text = build.load_text_frontend(config)
  decode = build.load_decoder(config, after, text, str(tmp_path))
  utterances, _ = examples.read_manifest(tiny_world / 'corpus/manifest.jsonl', 3)
  heard, bad = encode_utterances(after, decode, utterances, lambda count: None)
  assert not bad
  vocabulary = Vocabulary(folder)
  corpus = LogMelCorpus(
    Dataset(tiny_world / 'prepared'), after.encoder.config, AugmentationConfig()
  )
  for i, utterance in enumerate(utterances):
    (ids,) = transcribe(after.encoder, [corpus[i]['frames']], 1)
    assert heard[utterance.id].transcript == vocabulary.decode(ids)
    assert len(heard[utterance.id].clip) == -(-corpus.lengths[i] // 3)


def test_an_adapter_without_letters_on_top(tiny_world, pretrained, tmp_path):
  folder = pretrained[0] / build.ENCODER_FOLDER
  config = load_config(tiny_world, **{'ctc.steps': 3, 'response.steps': 0})
  config.encoder.kind, config.encoder.path = 'conformer', str(folder)
  config.adapter.update(stack=1, letter_layers=0)
  model = train.train(config, tmp_path)
  losses = [entry['loss'] for entry in entries(tmp_path)]
  assert len(losses) == 3 and losses[-1] < losses[0]
  assert EncodedCorpus(tmp_path / 'frames').frame_seconds == 0.02
  assert build.load_decoder(config, model, build.load_text_frontend(config), None)
