# SPDX-License-Identifier: Apache-2.0
import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import ParakeetForCTC

from acl_jax import build, train
from acl_jax.batches.encoded import EncodedCorpus
from acl_jax.batches.log_mels import LogMelCorpus
from acl_jax.batches.orders import TOO_LONG, make_order
from acl_jax.batches.pretraining import PretrainBatchAssembler
from acl_jax.config import defaults
from acl_jax.config.experiment import parse_pretrain
from acl_jax.config.sections import AugmentationConfig
from acl_jax.evaluation import examples
from acl_jax.evaluation.encoding import encode_utterances
from acl_jax.models.conformer_ctc import LetterHead
from acl_jax.models.ctc import BLANK
from acl_jax.models.layers import unpack_segments
from acl_jax.models.spelling import ALPHABET, encode_letters
from acl_jax.pretrain import find_vocabulary, new_model, pretrain, transcribe
from acl_jax.runtime import locks
from acl_jax.text.ctc_vocabulary import Vocabulary
from acl_jax.text.layout import NO_AUDIO
from acl_jax.training import pretraining
from acl_jax.weights.parakeet import load_conformer
from data_pipeline.batches import BatchPlan
from data_pipeline.records import Dataset
from tests.tiny_source import tokens_of
from tests.tiny_world import change, load_config, with_changes

pytestmark = pytest.mark.full  # compiles much

SIZES = dict(
  hidden_size=16,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=24,
  conv_kernel_size=3,
  subsampling_conv_channels=8,
  num_mel_bins=80,
  subsampling_factor=2,  # the utterances of the tiny world are short
)
STEPS = 4


def make_config(world, **changes):
  """Return a config with changes such as `{'ctc.steps': 3}`."""
  c = defaults.pretrain_config()
  c.vocabulary_size = 20
  c.encoder = dict(kind='conformer', sizes=dict(SIZES))
  prepared = str(world / 'prepared')
  c.data.update(train=((prepared, 1.0),), dev=prepared, buckets=(50,))
  c.ctc.update(
    steps=STEPS,
    frames_per_batch=300,
    average_decay=0.5,
    peak_lr=3e-3,
    warmup_steps=2,
    weight_decay=0.0,
    log_every=1,
    save_every=2,
  )
  values = c.to_dict()
  values['ctc']['remat'] = None
  values['ctc']['letters'] = dict(layer=1, per_frame=2, weight=0.5)
  return parse_pretrain(with_changes(values, changes))


@pytest.fixture(scope='module')
def pretrained(tiny_world, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('pretrained')
  return workdir, pretrain(make_config(tiny_world), workdir)


def read_metrics(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_transformers_reads_the_encoder_folder(pretrained):
  workdir, model = pretrained
  folder = workdir / build.ENCODER_FOLDER
  reference = ParakeetForCTC.from_pretrained(folder)
  assert reference.config.vocab_size == len(Vocabulary(folder)) + 1 == 21
  jax.tree.map(np.testing.assert_array_equal, model, load_conformer(folder))


def test_losses_and_word_error_rates_are_logged(pretrained):
  entries = read_metrics(pretrained[0])
  assert [entry['step'] for entry in entries] == [1, 2, 3, 4]
  assert ['dev_wer' in entry for entry in entries] == [False, True, False, True]
  assert entries[-1]['loss'] < entries[0]['loss'] and entries[0]['padding_waste'] > 0


def test_a_second_training_in_the_same_folder_is_refused(tiny_world, tmp_path):
  with locks.own_folder(tmp_path):
    with pytest.raises(ValueError, match='is writing here; .* another --workdir'):
      pretrain(make_config(tiny_world), tmp_path)


def test_measuring_changes_nothing(tiny_world, pretrained, tmp_path):
  config = make_config(tiny_world, **{'data.dev': ''})
  unmeasured = pretrain(config, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, unmeasured, pretrained[1])


def test_averages_and_statistics_change(tiny_world, pretrained):
  _, model = pretrained
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  start = new_model(make_config(tiny_world), vocabulary)
  before, after = (dict(nnx.to_flat_state(nnx.state(m))) for m in (start, model))
  for path, variable in before.items():
    assert (after[path][...] != variable[...]).any(), path


def load_corpus(world, config):
  return LogMelCorpus(Dataset(world / 'prepared'), config, AugmentationConfig())


def assemble(corpus, vocabulary, **letters):
  tokens = tokens_of(corpus, vocabulary.encode)
  return PretrainBatchAssembler(corpus, tokens, **letters)


def test_batches_contain_transcripts_and_padding_changes_nothing(
  tiny_world, pretrained
):
  folder = pretrained[0] / build.ENCODER_FOLDER
  vocabulary = Vocabulary(folder)
  model = new_model(make_config(tiny_world), vocabulary)
  corpus = load_corpus(tiny_world, model.config)
  batch = assemble(corpus, vocabulary)(BatchPlan(((1,), (4,)), 3, 50, 50))
  assert batch.log_mel.shape == (3, 100, 80) and batch.labels.shape == (3, 1, 50)
  assert (batch.frame_index[2] == NO_AUDIO).all() and batch.frame_index[1, 0, 0] == 0
  frame_mask = batch.segment_ids > 0
  lengths = [len(corpus[1]['frames']), len(corpus[4]['frames']), 0]
  assert frame_mask.sum(1).tolist() == lengths
  text = [int(i) - 1 for i in batch.labels[0, 0] if i != BLANK]
  assert text == vocabulary.encode(corpus.texts[1])

  @jax.jit
  def loss(batch):
    frames = model.encode(batch.log_mel, batch.segment_ids).frames
    return pretraining.transcript_loss(model, frames, batch)

  changed = np.where(frame_mask[..., None], batch.log_mel, 7.0)
  assert loss(batch) == loss(batch._replace(log_mel=changed))


def test_letter_loss_of_a_middle_layer_ignores_padding(tiny_world, pretrained):
  """Each encoder frame has several letter frames with their own logits."""
  model = pretrained[1]
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  corpus = load_corpus(tiny_world, model.config)
  assembler = assemble(corpus, vocabulary, letters_per_frame=2)
  batch = assembler(BatchPlan(((1,), (4,)), 3, 50, 50))
  assert batch.letters.shape == (3, 1, 100) and not batch.letters[2].any()
  letters = [ALPHABET[i - 1] for i in batch.letters[0, 0] if i != BLANK]
  assert ''.join(letters) == corpus.texts[1].lower().strip('.?!')
  head = LetterHead(model.config.hidden_size, 2, rngs=nnx.Rngs(3))
  encoded = jax.jit(model.encode)(batch.log_mel, batch.segment_ids)
  np.testing.assert_array_equal(encoded.layer_frames[-1], encoded.frames)
  frame_mask = encoded.segment_ids > 0
  logits, letter_mask = head(encoded.layer_frames[0], frame_mask)
  classes = 1 + len(ALPHABET)
  assert logits.shape == (3, 100, classes)
  assert letter_mask.sum() == 2 * frame_mask.sum()
  plain = head.linear(encoded.layer_frames[0])
  np.testing.assert_array_equal(logits[:, 1::2], plain[..., classes:])

  @jax.jit
  def loss(batch):
    frames = model.encode(batch.log_mel, batch.segment_ids).layer_frames[0]
    return pretraining.letter_loss(head, frames, batch)

  changed = np.where(batch.segment_ids[..., None] > 0, batch.log_mel, 7.0)
  assert loss(batch) == loss(batch._replace(log_mel=changed)) > 0


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('layer', 3, r'letters\.layer = 3\b.* 1 to 2$'),
    ('per_frame', -1, r'letters\.per_frame = -1\b.* 0'),
  ],
)
def test_impossible_letter_heads_are_refused(tiny_world, key, value, message):
  config = make_config(tiny_world, **{f'ctc.letters.{key}': value})
  with pytest.raises(ValueError, match=message):
    pretraining.new_letter_head(config.ctc.letters, config.encoder.sizes, seed=0)


def test_transcripts_with_more_letters_than_letter_frames_are_left_out(
  tiny_world, pretrained, caplog
):
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  corpus = load_corpus(tiny_world, pretrained[1].config)
  corpus.texts = list(corpus.texts)
  word = max(map(vocabulary.decode, ([i] for i in range(1, len(vocabulary)))), key=len)
  pieces = int(corpus.lengths[0]) * 2 // (len(word) + 1)
  corpus.texts[0] = ' '.join([word] * pieces)
  lengths = assemble(corpus, vocabulary, letters_per_frame=1).lengths
  assert lengths[0] == TOO_LONG > 1_000 > lengths[1]
  required = len(encode_letters(corpus.texts[0]))
  assert re.search(rf'^.*u0 .*\b{required} letters\b', caplog.text)


def test_packing_changes_no_logits(tiny_world, pretrained):
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  model = pretrained[1]
  corpus = load_corpus(tiny_world, model.config)
  assembler = assemble(corpus, vocabulary)
  config = make_config(tiny_world, **{'data.row_frames': 120})
  lengths = assembler.lengths[:, None]
  budget, one_corpus = config.ctc.frames_per_batch, np.zeros(len(lengths), int)
  plan = make_order(config.data, budget, 0, lengths, one_corpus)[0]
  batch = assembler(plan)
  assert len(plan.indices) > len(plan.utterances) > 1

  @jax.jit
  def logits(batch):
    frames = model.encode(batch.log_mel, batch.segment_ids).frames
    return model.logits(unpack_segments(frames, jnp.asarray(batch.frame_index))[0])

  shape = *batch.frame_index.shape[:2], plan.max_frames, -1
  packed = np.reshape(logits(batch), shape)
  for b, row in enumerate(plan.utterances):
    for k, i in enumerate(row):
      alone = assembler(BatchPlan(((i,),), 1, 50, 50))
      length = assembler.lengths[i]
      np.testing.assert_allclose(
        packed[b, k, :length], logits(alone)[0, :length], atol=1e-5
      )
      labels = batch.labels[b, k][batch.labels[b, k] != BLANK]
      assert labels.tolist() == alone.labels[0, 0, : len(labels)].tolist()


def test_the_loss_falls_on_packed_rows(tiny_world, tmp_path):
  pretrain(make_config(tiny_world, **{'data.row_frames': 120}), tmp_path)
  entries = read_metrics(tmp_path)
  assert entries[-1]['loss'] < entries[0]['loss']


def test_utterances_that_ctc_cannot_learn_are_left_out_and_logged(
  tiny_world, pretrained, caplog
):
  vocabulary = Vocabulary(pretrained[0] / build.ENCODER_FOLDER)
  corpus = load_corpus(tiny_world, pretrained[1].config)
  corpus.texts = list(corpus.texts)
  corpus.texts[0], corpus.texts[1], corpus.texts[2] = ' ?! ', 'ж', corpus.texts[2] * 40
  left_out = assemble(corpus, vocabulary).lengths == TOO_LONG
  assert left_out.tolist() == [True] * 3 + [False] * (len(corpus) - 3)
  empty, unknown, long = (record.getMessage() for record in caplog.records)
  assert re.search('^u0 .*neither letters nor digits', empty)
  assert re.search("^u1 .*'ж'", unknown)
  pieces = len(vocabulary.encode(corpus.texts[2]))
  assert re.search(rf'^u2 .*\b{pieces} pieces\b.* {corpus.lengths[2]}$', long)


def test_padding_does_not_change_transcripts(tiny_world, pretrained):
  _, model = pretrained
  corpus = load_corpus(tiny_world, model.config)
  log_mels = [record['frames'] for record in corpus.read(range(3))]
  alone = [transcribe(model, [log_mel], 1)[0] for log_mel in log_mels]
  assert transcribe(model, log_mels, 3) == alone


def test_init_from_loads_an_encoder_of_the_same_sizes(tiny_world, pretrained):
  folder = str(pretrained[0] / build.ENCODER_FOLDER)
  config = make_config(tiny_world, init_from=folder)
  vocabulary = Vocabulary(config.init_from)
  model = new_model(config, vocabulary)
  jax.tree.map(np.testing.assert_array_equal, model, pretrained[1])
  config = change(config, **{'encoder.sizes.hidden_size': 18})
  message = r'hidden_size=16\b.*config\.encoder\.sizes.*hidden_size=18\b'
  with pytest.raises(ValueError, match=message):
    new_model(config, vocabulary)


def test_init_from_keeps_the_vocabulary(tiny_world, pretrained, tmp_path):
  folder = str(pretrained[0] / build.ENCODER_FOLDER)
  config = make_config(tiny_world, init_from=folder)
  pretrain(config, tmp_path)
  before, after = Vocabulary(config.init_from), Vocabulary(tmp_path / 'encoder')
  assert after.decode(range(20)) == before.decode(range(20))


def test_a_vocabulary_of_another_size_is_refused(tiny_world, pretrained):
  config = make_config(tiny_world, vocabulary_size=24)
  message = r'\b20 pieces.*config\.vocabulary_size is 24\b'
  with pytest.raises(ValueError, match=message):
    find_vocabulary(config, pretrained[0] / build.ENCODER_FOLDER, texts=())


def test_a_vocabulary_of_longer_pieces_is_refused(tiny_world, pretrained):
  folder = pretrained[0] / build.ENCODER_FOLDER
  longest = Vocabulary(folder).max_piece_length
  config = make_config(tiny_world, max_piece_length=longest - 1)
  message = rf'\b{longest} characters.*config\.max_piece_length is {longest - 1}\b'
  with pytest.raises(ValueError, match=message):
    find_vocabulary(config, folder, texts=())


def test_a_checkpoint_of_another_encoder_is_refused(tiny_world, pretrained, tmp_path):
  shutil.copytree(pretrained[0], tmp_path, dirs_exist_ok=True)
  config = make_config(tiny_world, **{'encoder.sizes.intermediate_size': 32})
  with pytest.raises(ValueError, match=r'ctc/\d+'):
    pretrain(config, tmp_path)


def test_errors_of_the_program_name_a_missing_corpus(tmp_path):
  completed = subprocess.run(
    [sys.executable, '-m', 'acl_jax.pretrain', '--config=configs/smol_ctc.py']
    + [f'--workdir={tmp_path}', f'--config.data.train={tmp_path}/none'],
    capture_output=True,
    text=True,
  )
  assert completed.returncode == 1
  assert 'none/dataset.json: not found' in completed.stderr.splitlines()[-1]


def test_training_and_evaluation_use_the_pretrained_encoder(
  tiny_world, pretrained, tmp_path
):
  """The encoder trains with a stride adapter; its CTC head stays the same."""
  folder = pretrained[0] / build.ENCODER_FOLDER
  encoder = {'kind': 'conformer', 'path': str(folder), 'trains': 'full'}
  changes = {f'encoder.{name}': value for name, value in encoder.items()}
  adapter = dict(kind='stride', stack=3, hidden_size=16)
  changes |= {'response.steps': 2, 'adapter': adapter}
  config = load_config(tiny_world, **changes)
  model = train.train(config, tmp_path)
  checkpoint = build.find_checkpoint(tmp_path)
  before, after = pretrained[1], build.load_model(config, checkpoint)
  jax.tree.map(np.testing.assert_array_equal, after.encoder, model.encoder)
  jax.tree.map(np.testing.assert_array_equal, after.encoder.ctc_head, before.ctc_head)
  trained = after.encoder.encoder.layers.self_attn.bias_u[...]
  assert (trained != before.encoder.layers.self_attn.bias_u[...]).any()
  text = build.load_text_frontend(config.llama, config.template)
  decode = build.load_transcript_decoder(config.encoder, after, text, checkpoint)
  utterances, _ = examples.read_manifest(tiny_world / 'corpus/manifest.jsonl', 3)
  encoded, bad = encode_utterances(after, decode, utterances, lambda count: None)
  assert not bad
  vocabulary = Vocabulary(folder)
  corpus = load_corpus(tiny_world, after.encoder.config)
  for i, utterance in enumerate(utterances):
    (ids,) = transcribe(after.encoder, [corpus[i]['frames']], 1)
    assert encoded[utterance.id].transcript == vocabulary.decode(ids)
    assert len(encoded[utterance.id].clip) == -(-corpus.lengths[i] // 3)


def test_a_ctc_adapter_trains_on_the_frozen_encoder(tiny_world, pretrained, tmp_path):
  folder = pretrained[0] / build.ENCODER_FOLDER
  changes = {'ctc.steps': 3, 'response.steps': 0}
  changes |= {'encoder.kind': 'conformer', 'encoder.path': str(folder)}
  changes |= {'adapter.stack': 1, 'adapter.letter_layers': 0}
  config = load_config(tiny_world, **changes)
  model = train.train(config, tmp_path)
  losses = [entry['loss'] for entry in read_metrics(tmp_path)]
  assert len(losses) == 3 and losses[-1] < losses[0]
  assert EncodedCorpus(tmp_path / 'frames').frame_seconds == 0.02
  text = build.load_text_frontend(config.llama, config.template)
  assert build.load_transcript_decoder(config.encoder, model, text, None)
