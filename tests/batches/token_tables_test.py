# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from acl_jax.batches import token_tables
from acl_jax.batches.ctc import CTCLabels
from acl_jax.batches.token_tables import min_frames
from acl_jax.batches.tokens import CorpusTokens
from acl_jax.models.spelling import encode_letters
from acl_jax.text.tokenizer import TextEncoder
from data_pipeline.line_index import open_prepared
from data_pipeline.object_store import RemotePath

TEXTS = ['cab', 'bee', '', 'zebra', 'aabbccc', 'moo', 'x y', 'bad cab', 'eel', 'ooze']


def encode(text):
  if 'z' in text:
    raise ValueError(f'{text!r} has a z')
  return [ord(letter) for letter in text]


ENCODER = TextEncoder(encode, 'f00' * 20)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
  monkeypatch.setattr(token_tables, 'PART_LINES', 4)


def write_lines(folder, texts=TEXTS):
  folder.mkdir(exist_ok=True)
  lines = [
    json.dumps({'id': f'u{i}', 'text': text, 'seconds': 1})
    for i, text in enumerate(texts)
  ]
  (folder / 'index.jsonl').write_text(''.join(line + '\n' for line in lines))
  (folder / 'dataset.json').write_text('{}')
  return open_prepared(folder)


def source_of(numbers, *files):
  return SimpleNamespace(files=files, numbers=np.asarray(numbers))


def open_tokens(source, workdir, encoder=ENCODER):
  tables = token_tables.open_tables(source.files, encoder, workdir)
  return CorpusTokens(tables, source.numbers, encoder.encode)


def check(tokens, texts):
  """Compare with what the tokenizer says of every transcript."""
  for i, text in enumerate(texts):
    expected = [] if 'z' in text else encode(text)
    assert tokens[i].tolist() == expected and tokens.refused[i] == ('z' in text)
    assert tokens.need[i] == min_frames(expected)
    assert tokens.letters[i] == min_frames(encode_letters(text))
  everything = [token for i in range(len(texts)) for token in tokens[i].tolist()]
  counts = np.zeros(len(tokens.counts), int)
  np.add.at(counts, everything, 1)
  assert tokens.counts.tolist() == counts.tolist()
  for vocabulary in (encode('abc'), encode('~ab'), [], sorted({*everything})):
    labels = CTCLabels(vocabulary)
    needed = [min_frames(labels(tokens[i]).tolist()) for i in range(len(texts))]
    assert tokens.need_without(labels.known).tolist() == needed


def test_tables_have_the_tokens_of_all_utterances(tmp_path):
  first, second = write_lines(tmp_path / 'a'), write_lines(tmp_path / 'b', TEXTS[::-1])
  # Copies, an order of their own, and lines that are left out.
  numbers = [0, 1, 3, 4, 19, 12, 4, 4, 15, 9, 10, 0, 7]
  texts = [*TEXTS, *TEXTS[::-1]]
  tokens = open_tokens(source_of(numbers, first, second), tmp_path)
  check(tokens, [texts[i] for i in numbers])
  check(CorpusTokens.of_texts(TEXTS, encode), TEXTS)
  names = {path.name for path in (tmp_path / 'a').iterdir()}
  assert len(names) == 4 and not any('.part' in name for name in names)


def test_blocks_of_lines_are_joined(tmp_path, monkeypatch):
  monkeypatch.setattr('acl_jax.batches.tokens.SPAN_TOKENS', 5)
  lines = write_lines(tmp_path)
  check(open_tokens(source_of(range(10), lines), tmp_path), TEXTS)


def test_a_killed_run_keeps_its_parts(tmp_path):
  lines, seen = write_lines(tmp_path), []

  def until_killed(text):
    seen.append(text)
    if text == 'bad cab' and seen.count(text) == 1:
      raise KeyboardInterrupt
    return encode(text)

  encoder = TextEncoder(until_killed, 'abc')
  with pytest.raises(KeyboardInterrupt):
    open_tokens(source_of(range(10), lines), tmp_path, encoder)
  for _ in range(2):
    tokens = open_tokens(source_of(range(10), lines), tmp_path, encoder)
  assert seen == [*TEXTS[:8], *TEXTS[4:]]
  check(tokens, TEXTS)


@pytest.mark.parametrize('damage', ['flip', 'cut', 'lines', 'tokenizer'])
def test_damaged_and_foreign_tables_are_made_again(tmp_path, damage, caplog):
  lines = write_lines(tmp_path)
  open_tokens(source_of(range(10), lines), tmp_path)
  (path,) = tmp_path.glob('tokens-*')
  content = bytearray(path.read_bytes())
  texts, encoder = TEXTS, ENCODER
  if damage == 'flip':
    content[-300] ^= 1  # in a column that is always read
  elif damage == 'cut':
    del content[-300:]
  elif damage == 'lines':
    texts = ['more', *TEXTS[1:]]
    lines = write_lines(tmp_path, texts)
  else:
    encoder = TextEncoder(encode, 'f00' * 19)
  path.write_bytes(content)
  check(open_tokens(source_of(range(10), lines), tmp_path, encoder), texts)
  assert (f'{path}: ' in caplog.text) == (damage != 'lines')


def test_processes_make_parts_of_their_own(tmp_path, monkeypatch):
  lines, seen = write_lines(tmp_path), {}
  monkeypatch.setattr(token_tables.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(token_tables.barriers, 'wait', lambda *_: None)
  monkeypatch.setattr(token_tables.barriers, 'broadcast', lambda _, text, __: text)
  for host in (1, 0):
    monkeypatch.setattr(token_tables.jax, 'process_index', lambda host=host: host)
    encoder = TextEncoder(
      lambda text, host=host: seen.setdefault(text, host) and None or encode(text), 'ab'
    )
    if host:  # without the others' parts there is no table yet
      with pytest.raises(ValueError, match='not found'):
        open_tokens(source_of(range(10), lines), tmp_path, encoder)
    else:
      check(open_tokens(source_of(range(10), lines), tmp_path, encoder), TEXTS)
  assert [seen[text] for text in TEXTS] == [0] * 4 + [1] * 4 + [0] * 2


def test_a_table_of_a_folder_that_cannot_be_written_is_in_the_workdir(
  tmp_path, monkeypatch
):
  lines = write_lines(tmp_path / 'read_only')
  monkeypatch.setattr(token_tables.os, 'access', lambda *_: False)
  for _ in range(2):
    tokens = open_tokens(source_of(range(10), lines), tmp_path / 'workdir')
  check(tokens, TEXTS)
  assert len([*(tmp_path / 'workdir').iterdir()]) == 1


@pytest.mark.parametrize('store_has_it', [False, True])
def test_the_table_of_remote_lines_is_copied_or_made_in_the_workdir(
  tmp_path, monkeypatch, store_has_it
):
  store, workdir = tmp_path / 'store', tmp_path / 'workdir'
  lines = write_lines(store)
  if store_has_it:
    open_tokens(source_of(range(10), lines), tmp_path)
  copy = write_lines(tmp_path / 'cache')
  copy.remote = RemotePath('gs://speech/prepared')
  copied = []

  def local_copy(path):
    source = store / path.name
    if not source.exists():
      raise FileNotFoundError(path)
    copied.append(shutil.copy(source, tmp_path / 'cache'))
    return tmp_path / 'cache' / path.name

  monkeypatch.setattr(token_tables, 'local_copy', local_copy)
  for _ in range(2):
    check(open_tokens(source_of(range(10), copy), workdir), TEXTS)
  assert workdir.exists() != store_has_it and len(copied) == 2 * store_has_it
  # Other machines do not see the folder of the copy.
  made = [path.name for path in (tmp_path / 'cache').glob('tokens-*')]
  assert len(made) == store_has_it
