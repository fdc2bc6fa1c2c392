# SPDX-License-Identifier: Apache-2.0
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.corpora import Utterance, open_corpus
from data_pipeline.corpus_tools.splits import HeldOut, hold_out, normalize


def write_manifest(folder, lines):
  """Write (speaker, text) lines as a manifest without ids."""
  folder.mkdir(parents=True, exist_ok=True)
  entries = (
    {'audio_filepath': f'audio/{i}.wav', 'text': text, 'speaker': speaker, 'age': i}
    for i, (speaker, text) in enumerate(lines)
  )
  path = folder / 'manifest.jsonl'
  path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
  return path


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def corpora(tmp_path):
  """Manifests `calls` of three speakers and `drama` of two, with common sentences."""
  calls = [
    (speaker, f'{speaker} says {word} twice')
    for speaker in ('anna', 'wei', 'joe')
    for word in 'red green blue white'.split()
  ]
  calls += [
    ('joe', 'Anna says: red, TWICE!'),
    ('joe', 'act one is over'),
    ('joe', 'No'),
  ]
  drama = [('h', 'Act one is over.'), ('h', 'Yes'), ('h', 'The end')]
  drama += [('k', f'scene {i} of act {i}') for i in range(5)]
  write_manifest(tmp_path / 'calls', calls)
  write_manifest(tmp_path / 'drama', drama)
  return tmp_path


def test_sets_share_no_speaker_source_or_sentence(corpora):
  calls, drama = corpora / 'calls/manifest.jsonl', corpora / 'drama/manifest.jsonl'
  sets = [HeldOut.parse(f'dialogue:3:{corpora}/drama'), HeldOut.parse('voices:4:@anna')]
  counts = hold_out([calls], sets, corpora / 'out')
  train, dialogue, voices = (
    read(corpora / f'out/{name}.jsonl') for name in ('train', 'dialogue', 'voices')
  )
  assert [len(train), len(dialogue), len(voices)] == [9, 3, 4]
  assert counts.held_out == {'dialogue': 3, 'voices': 4} and counts.training == 9
  assert counts.held_out_source == 4 and counts.held_out_sentence == 2
  assert {line['speaker'] for line in train} == {'wei', 'joe'}
  assert {line['speaker'] for line in dialogue} == {'h', 'k'}  # h has one long line
  assert dialogue[0]['text'] == 'Act one is over.'
  held_out = {normalize(line['text']) for line in dialogue + voices}
  assert len(held_out) == 7
  assert held_out.isdisjoint(normalize(line['text']) for line in train)
  assert dialogue[0]['audio_filepath'] == str(drama.parent / 'audio/0.wav')
  assert dialogue[0]['id'] == 'drama-audio/0' and dialogue[0]['age'] == 0


def test_all_lines_of_a_manifest_are_held_out(corpora):
  calls = corpora / 'calls/manifest.jsonl'
  sets = [HeldOut.parse(f'd:all:{corpora}/drama')]
  counts = hold_out([calls], sets, corpora / 'out')
  texts = [line['text'] for line in read(corpora / 'out/d.jsonl')]
  assert texts == [line['text'] for line in read(corpora / 'drama/manifest.jsonl')]
  assert counts.held_out == {'d': 8} and counts.held_out_sentence == 1


def test_written_manifests_are_read_elsewhere(corpora):
  sets = [HeldOut.parse(f'd:2:{corpora}/drama/manifest.jsonl')]
  hold_out([corpora / 'calls/manifest.jsonl'], sets, corpora / 'far/away')
  utterances = list(open_corpus('manifest', corpora / 'far/away/d.jsonl'))
  assert all(isinstance(utterance, Utterance) for utterance in utterances)
  assert utterances[0].audio_filepath == corpora / 'drama/audio/0.wav'


def test_order_of_sets_depends_on_the_seed_alone(corpora):
  calls = corpora / 'calls/manifest.jsonl'
  sets = [HeldOut.parse(f'd:2:{corpora}/drama')]
  chosen = []
  for seed in (0, 0, 1, 2, 3):
    hold_out([calls], sets, corpora / 'out', seed=seed)
    chosen.append((corpora / 'out/d.jsonl').read_bytes())
  assert chosen[0] == chosen[1] and len(set(chosen)) > 1


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(0, 99))
def test_lines_are_spread_over_speakers(tmp_path_factory, count, seed):
  folder = tmp_path_factory.mktemp('spread')
  rng = random.Random(seed)
  lines = [(f's{i % 3}', f'line number {i}') for i in range(9)]
  rng.shuffle(lines)
  train = write_manifest(folder / 'train', [('x', 'Something else')])
  write_manifest(folder / 'pool', lines)
  hold_out([train], [HeldOut.parse(f'p:{count}:{folder}/pool')], folder, seed=seed)
  speakers = [line['speaker'] for line in read(folder / 'p.jsonl')]
  shares = [speakers.count(f's{i}') for i in range(3)]
  assert sum(shares) == count and max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
  'spec', ['d', 'd:2', 'd:0:@a', 'd:-1:@a', 'train:2:@a', '../d:2:@a', 'd:2:,', ':2:@a']
)
def test_wrong_set_is_rejected(spec):
  with pytest.raises(ValueError, match='NAME:LINES:SOURCE'):
    HeldOut.parse(spec)


def test_errors_name_the_set_and_the_limit(corpora):
  calls = corpora / 'calls/manifest.jsonl'
  with pytest.raises(FileNotFoundError, match='nowhere'):
    HeldOut.parse('d:2:nowhere')
  with pytest.raises(ValueError, match="set d: .* speaker 'eva'"):
    hold_out([calls], [HeldOut.parse('d:2:@eva')], corpora / 'out')
  with pytest.raises(ValueError, match='set d: 7 lines .* only 6 .* at least 3 words'):
    hold_out([calls], [HeldOut.parse(f'd:7:{corpora}/drama')], corpora / 'out')
  write_manifest(corpora / 'more/calls', [('x', 'Something else')])
  sets = [HeldOut.parse(f'd:2:{corpora}/drama')]
  with pytest.raises(ValueError, match="both have the id 'calls-audio/0'"):
    hold_out([calls, corpora / 'more/calls/manifest.jsonl'], sets, corpora / 'out')


def test_unusable_lines_are_counted(corpora):
  calls = corpora / 'calls/manifest.jsonl'
  with calls.open('a') as file:
    file.write('{"audio_filepath": "../x.wav", "text": "outside"}\nno JSON\n')
  counts = hold_out([calls], [HeldOut.parse('v:4:@anna')], corpora / 'out')
  assert counts.unusable == 2 and 'outside' in counts.first_reason


def test_program(corpora, run_program):
  output = f'--output={corpora}/out'
  arguments = (f'--train={corpora}/calls', f'--held_out=d:3:{corpora}/drama', output)
  done = run_program('data_pipeline.hold_out', *arguments)
  assert done.returncode == 0, done.stderr
  assert f'3 lines in {corpora}/out/d.jsonl' in done.stdout
  assert f'14 lines in {corpora}/out/train.jsonl' in done.stdout
  twice = run_program('data_pipeline.hold_out', *arguments, '--held_out=d:1:@anna')
  assert twice.returncode == 1 and 'same name' in twice.stderr
