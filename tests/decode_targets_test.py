# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as library
from flax import nnx

from acl_jax import decode_targets as program
from acl_jax.assembly import Text
from acl_jax.decoding import answers
from acl_jax.decoding.answers import Decoding
from acl_jax.decoding.targets import Targets, fingerprint
from acl_jax.models.llama import Config, Llama
from acl_jax.text import templates
from acl_jax.text.instructions import choose, written
from acl_jax.text.tokenizer import Backends, Merges, Tokenizer
from data_pipeline.container import RecordError

DECODING = Decoding(max_new_tokens=5, batch_size=3, temperature=0.7, top_k=2, seed=1)
TRANSCRIPTS = [(f'utterance {i}', 'so ' * (i % 5) + 'it is.') for i in range(11)]


@pytest.fixture(scope='module')
def text():
  """ChatML over single bytes."""
  bytes_ = sorted(library.pre_tokenizers.ByteLevel.alphabet())
  vocab = {token: number for number, token in enumerate(bytes_)}
  tokenizer = library.Tokenizer(library.models.BPE(vocab=vocab, merges=[]))
  tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = library.decoders.ByteLevel()
  backends = Backends(*[Merges(tokenizer)] * 3)
  controls = {'<|im_start|>': 256, '<|im_end|>': 257}
  return Text(Tokenizer(backends, controls, 258, None, 257, (257,)), templates.chatml)


@pytest.fixture(scope='module')
def llama():
  return make_llama(seed=0)


def make_llama(seed):
  config = Config(
    vocab_size=258,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    rope_theta=1e4,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    max_position_embeddings=200,
  )
  shapes = jax.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda w: jnp.asarray(random.normal(scale=0.3, size=w.shape), w.dtype), shapes
  )


def decode(llama, text, output, transcripts=TRANSCRIPTS, decoding=DECODING, size=4):
  return program.decode_targets(
    llama, text, transcripts, output, decoding, shard_size=size, max_skipped=0.3
  )


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_transcript_has_its_response(llama, text, tmp_path):
  found = decode(llama, text, tmp_path / 'out')
  assert isinstance(found, Targets)
  assert list(found) == [id for id, _ in TRANSCRIPTS] and len(found) == 11
  assert 'utterance 3' in found and 'utterance 11' not in found
  assert found.max_new_tokens == 5
  shards = sorted((tmp_path / 'out').glob('targets-*'))
  assert [path.name for path in shards] == [
    f'targets-0000{i}-of-00003.array_record' for i in range(3)
  ]
  for id, transcript in TRANSCRIPTS:
    target = found[id]
    u = len(target['response'])
    assert target['id'] == id
    assert target['response'].dtype == np.int32 and 1 <= u <= 5
    assert target['log_probs'].shape == (u,) and (target['log_probs'] <= 0).all()
    assert target['top_ids'].shape == target['top_log_probs'].shape == (u, 2)
    assert target['top_log_probs'].dtype == np.float16
    ended = target['response'][-1] == 257
    assert target['finish_reason'] == ('stop' if ended else 'length')
    assert target['text'] == text.tokenizer.decode(target['response'])
    assert target['transcript'] == transcript not in target['text']


def test_instructions_are_given_by_weight_and_kept(llama, text, tmp_path):
  weighed = (('{}', 2.0), ('Say {} again.', 1.0))
  decoding = dataclasses.replace(DECODING, instructions=weighed)
  found = decode(llama, text, tmp_path, decoding=decoding)
  plain = decode(llama, text, tmp_path / 'plain')
  assert found.instructions == ['{}', 'Say {} again.'] and plain.instructions == ['{}']
  asked = {id: found[id]['instruction'] for id in found}
  assert asked == {id: choose(weighed, id, DECODING.seed) for id in found}
  assert set(asked.values()) == set(found.instructions)
  for id, transcript in TRANSCRIPTS:
    [prompt] = text.prompt(written(asked[id], transcript))
    print_ = fingerprint([np.array(prompt, '<i4').tobytes()])[:16]
    assert found[id]['prompt_fingerprint'] == print_
    assert found[id]['transcript'] == transcript
    same = found[id]['prompt_fingerprint'] == plain[id]['prompt_fingerprint']
    assert same == (asked[id] == '{}')
  with pytest.raises(ValueError, match='another decoding, .*again.*, not of '):
    decode(llama, text, tmp_path)


def test_a_sample_depends_on_the_id_alone(llama, text, tmp_path):
  found = decode(llama, text, tmp_path / 'whole')
  part = decode(llama, text, tmp_path / 'part', TRANSCRIPTS[9:1:-1], size=100)
  for id in part:
    np.testing.assert_array_equal(part[id]['response'], found[id]['response'])
  responses = {found[id]['response'].tobytes() for id in found}
  assert len(responses) > 1


def test_a_killed_job_resumes_to_the_same_bytes(llama, text, tmp_path, monkeypatch):
  decode(llama, text, tmp_path / 'calm')
  asked = []

  class Killed(answers.Answers):
    """Dies in the second shard."""

    def __call__(self, examples, advance):
      asked.append(len(examples))
      for number, record in enumerate(super().__call__(examples, advance)):
        if len(asked) == 1 and number == 5:
          raise KeyboardInterrupt
        yield record

  monkeypatch.setattr(program, 'Answers', Killed)
  with pytest.raises(KeyboardInterrupt):
    decode(llama, text, tmp_path / 'killed')
  with pytest.raises(RecordError, match='targets-00001-of-00003.*missing'):
    Targets(tmp_path / 'killed')
  decode(llama, text, tmp_path / 'killed')
  assert asked == [11, 7]  # all, and what was missing
  calm, killed = contents(tmp_path / 'calm'), contents(tmp_path / 'killed')
  assert killed == calm


@pytest.mark.parametrize('number', range(3))
def test_a_shard_does_not_depend_on_those_before_it(llama, text, tmp_path, number):
  decode(llama, text, tmp_path)
  path = tmp_path / f'targets-0000{number}-of-00003.array_record'
  together = path.read_bytes()
  path.unlink()
  decode(llama, text, tmp_path)  # alone
  assert path.read_bytes() == together


def test_a_finished_folder_is_only_read(llama, text, tmp_path, monkeypatch):
  decode(llama, text, tmp_path)
  before = contents(tmp_path)
  monkeypatch.setattr(program, 'Answers', None)
  smaller = Decoding(**{**vars(DECODING), 'batch_size': 2})
  assert len(decode(llama, text, tmp_path, decoding=smaller)) == 11
  assert contents(tmp_path) == before


def test_targets_of_others_are_refused(llama, text, tmp_path):
  decode(llama, text, tmp_path)
  other = Text(text.tokenizer, lambda conversation, _: [(1, 2, 3)])
  with pytest.raises(ValueError, match='another llm, .*"sha256".*, not of .*"sha256"'):
    decode(make_llama(seed=1), text, tmp_path)
  with pytest.raises(ValueError, match='another template, .*"chatml".*, not of '):
    decode(llama, other, tmp_path)
  with pytest.raises(ValueError, match='another corpus, .*"examples": 11.*, not of '):
    decode(llama, text, tmp_path, TRANSCRIPTS[:8])
  with pytest.raises(ValueError, match='another decoding, .*, not of '):
    decode(llama, text, tmp_path, decoding=Decoding(**{**vars(DECODING), 'seed': 2}))


def test_what_cannot_be_answered_is_skipped_and_listed(llama, text, tmp_path, capsys):
  bad = [('empty', ' '), ('long', 'so ' * 90), ('odd', '\ud800'), TRANSCRIPTS[0]]
  found = decode(llama, text, tmp_path, [*TRANSCRIPTS, *bad])
  assert len(found) == 11
  reasons = {skip['id']: skip['reason'] for skip in found.provenance['skipped']}
  assert reasons['empty'] == 'text is empty'
  assert 'less the response is 195' in reasons['long']
  assert 'not valid Unicode' in reasons['odd']
  assert 'not the first' in reasons[TRANSCRIPTS[0][0]]
  assert 'skipped long: text makes ' in capsys.readouterr().err
  message = r"3 of 4 transcripts cannot be answered {'text': 3}, limit 30.0%: "
  with pytest.raises(ValueError, match=message):
    decode(llama, text, tmp_path / 'few', bad)
  with pytest.raises(ValueError, match='0 of 0 transcripts'):
    decode(llama, text, tmp_path / 'none', [])


def test_progress_says_speed_and_time_left(llama, text, tmp_path, capsys):
  decode(llama, text, tmp_path)
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith('decode_targets: 11 of 11 responses, ')
  assert last.endswith(' tokens/s, 0.0 minutes left')


def test_transcripts_of_a_prepared_folder_and_of_a_manifest(tmp_path):
  lines = [{'id': 'b', 'seconds': 1.5, 'text': 'two'}, {'id': 'a', 'text': 'one'}]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (tmp_path / 'index.jsonl').write_text(text)
  assert program.read_transcripts(tmp_path) == ([('b', 'two'), ('a', 'one')], [])
  manifest = tmp_path / 'manifest.jsonl'
  manifest.write_text('{"audio_filepath": "no/such.wav", "text": "hi"}\n{"text": 1}\n')
  pairs, skipped = program.read_transcripts(manifest)
  assert pairs == [('no/such', 'hi')]
  assert [skip['id'] for skip in skipped] == ['manifest.jsonl:2']


@pytest.mark.parametrize('line', ['{', '[]', '{"id": "a"}'])
def test_a_broken_index_is_named(tmp_path, line):
  (tmp_path / 'index.jsonl').write_text(line)
  with pytest.raises(ValueError, match=r'index\.jsonl: cannot be read'):
    program.read_transcripts(tmp_path)


def test_missing_folders_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='not found; --input is a prepared'):
    program.read_transcripts(tmp_path)
  with pytest.raises(FileNotFoundError, match='is this a folder of targets'):
    Targets(tmp_path)


def test_settings_out_of_range_are_refused():
  with pytest.raises(ValueError, match='targets.batch_size is 0, should be at least 1'):
    Decoding(max_new_tokens=5, batch_size=0, temperature=0.0, top_k=0, seed=0)
