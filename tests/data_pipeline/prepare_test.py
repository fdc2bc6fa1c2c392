# SPDX-License-Identifier: Apache-2.0
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from acl_jax.runtime import locks
from acl_jax.runtime.lock_holder import Holder
from data_pipeline import audio, records
from data_pipeline.corpora import open_corpus
from data_pipeline.preparation import plan, shard
from data_pipeline.preparation.pipeline import Beam
from data_pipeline.prepare import Settings, prepare

SMALL = Settings(shard_size=3, max_characters=50)


def content(folder):
  """The bytes of every file of a prepared folder, by name."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def append_entry(manifest, **entry):
  with manifest.open('a') as file:
    file.write(json.dumps({'text': 'hi'} | entry) + '\n')


def test_prepared_folder(corpus, tmp_path):
  info = prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  written = content(tmp_path / 'out')
  assert json.loads(written['dataset.json']) == info
  assert not {name for name in written if name.endswith('.tmp') or 'plan' in name}
  assert info['schema_version'] == 1 and info['sample_rate'] == 16_000
  assert info['examples'] == 7 and info['hours'] == pytest.approx(1.75 / 3600, abs=1e-6)
  assert info['seconds_histogram']['counts'] == [7] + [0] * 15
  assert [entry['examples'] for entry in info['shards']] == [3, 3, 1]
  for i, entry in enumerate(info['shards']):
    assert entry['file'] == f'data-0000{i}-of-00003.array_record'
    assert entry['sha256'] == hashlib.sha256(written[entry['file']]).hexdigest()
  lines = [json.loads(line) for line in written['index.jsonl'].splitlines()]
  assert lines[2] == {'id': 'u2', 'seconds': 0.2, 'text': 'Grüße 2'}
  data = records.Dataset(tmp_path / 'out')
  for i in range(7):
    expected = audio.read(corpus.parent / f'audio/{i}.flac')
    np.testing.assert_array_equal(data[i]['audio'], expected)


def test_same_input_gives_the_same_bytes(corpus, tmp_path):
  for name, threads in (('one', 1), ('two', 5)):
    prepare('manifest', corpus, tmp_path / name, settings=SMALL, threads=threads)
  assert content(tmp_path / 'one') == content(tmp_path / 'two')


def test_interrupted_run_resumes(corpus, tmp_path, monkeypatch):
  prepare('manifest', corpus, tmp_path / 'whole', settings=SMALL)
  read = audio.read
  calls = []

  def interrupt_at_five(path, **options):
    calls.append(path.stem)
    if path.stem == '5' and calls.count('5') == 1:
      raise KeyboardInterrupt
    return read(path, **options)

  monkeypatch.setattr(audio, 'read', interrupt_at_five)
  with pytest.raises(KeyboardInterrupt):
    prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  assert not (tmp_path / 'out/dataset.json').exists()
  calls[:] = ['5']
  prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  assert sorted(calls[1:]) == ['3', '4', '5', '6']  # the first shard was complete
  assert content(tmp_path / 'out') == content(tmp_path / 'whole')


# Runs the program, but halts in the middle of its second shard.
HALTING = """if True:
  import runpy, signal, time
  from data_pipeline.preparation import shard
  # SIGINT is ignored when the tests run in the background.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  write, written = shard._write_shard, []
  def halt(path, results):
    if written:
      path.write_bytes(b'half')
      print('halted', flush=True)
      time.sleep(60)
    written.append(path)
    return write(path, results)
  shard._write_shard = halt
  runpy.run_module('data_pipeline.prepare', run_name='__main__')
"""


def group_is_empty(group):
  try:
    os.killpg(group, 0)
  except ProcessLookupError:
    return True
  return False


@pytest.mark.full
@pytest.mark.parametrize('stop, code', [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_killed_program_leaves_no_process_and_resumes(corpus, tmp_path, stop, code):
  prepare('manifest', corpus, tmp_path / 'whole', settings=SMALL)
  arguments = [f'--input={corpus}', f'--output={tmp_path / "out"}', '--shard_size=3']
  command = [sys.executable, '-c', HALTING, *arguments, '--max_characters=50']
  with subprocess.Popen(
    command,
    env=_environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  ) as program:
    assert program.stdout.readline() == 'halted\n'
    program.send_signal(stop)
    assert program.wait(5) == code
    if stop == signal.SIGINT:
      assert program.stderr.read().endswith('\ninterrupted\n')
    deadline = time.monotonic() + 5
    while not group_is_empty(program.pid) and time.monotonic() < deadline:
      time.sleep(0.1)
    assert group_is_empty(program.pid)
  first_shard = tmp_path / 'out/data-00000-of-00003.array_record'
  date = first_shard.stat().st_mtime_ns
  assert content(tmp_path / 'out') != content(tmp_path / 'whole')
  prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  assert content(tmp_path / 'out') == content(tmp_path / 'whole')
  assert first_shard.stat().st_mtime_ns == date


@pytest.mark.full
@pytest.mark.parametrize('mode', ['multi_threading', 'multi_processing'])
def test_other_runners_give_the_same_bytes(corpus, tmp_path, mode, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', os.getcwd())
  prepare('manifest', corpus, tmp_path / 'one', settings=SMALL)
  options = [f'--direct_running_mode={mode}', '--direct_num_workers=2']
  beam = Beam(options=options)
  prepare('manifest', corpus, tmp_path / 'two', settings=SMALL, beam=beam)
  assert content(tmp_path / 'one') == content(tmp_path / 'two')


def test_unknown_runners_and_options_are_rejected(corpus, tmp_path):
  for beam, message in (
    (Beam('NoRunner'), 'Unexpected pipeline runner: NoRunner'),
    (Beam('InteractiveRunner'), 'Runner: .* install apache_beam.interactive'),
    (
      Beam(options=['--direct_num_workers=x']),
      "num_workers: invalid int value: 'x",
    ),
  ):
    with pytest.raises(ValueError, match=message):
      prepare('manifest', corpus, tmp_path / 'out', beam=beam)


def test_a_second_run_into_the_same_folder_is_refused(corpus, tmp_path):
  out = tmp_path / 'out'
  with locks.own_folder(out):
    with pytest.raises(ValueError, match=f'{out}: .* is writing here; wait for it'):
      prepare('manifest', corpus, out, settings=SMALL)
  assert prepare('manifest', corpus, out, settings=SMALL)['examples']


def test_a_folder_that_another_run_took_over_is_not_reported(corpus, tmp_path):
  out, other = tmp_path / 'out', Holder('other', 'far', 'x', 7, '5', 'prepare', 'noon')

  def utterances(*_):
    yield from open_corpus('manifest', corpus)
    (out / locks.NAME).write_text(json.dumps(other._asdict()))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('data_pipeline.prepare.open_corpus', utterances)
    with pytest.raises(ValueError, match=r'taken over by prepare \(process 7 on far'):
      prepare('manifest', corpus, out, settings=SMALL)
  assert not (out / 'dataset.json').exists()


def test_full_disk_is_an_os_error(corpus, tmp_path, monkeypatch):
  def raise_disk_full(path, results):
    raise OSError(f'{path}: cannot be written (No space left on device)')

  monkeypatch.setattr(records, 'write_shard', raise_disk_full)
  with pytest.raises(OSError, match=r'tmp: cannot be written \(No space .*device\)$'):
    prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)


@pytest.mark.full
def test_beam_is_not_imported_for_a_finished_folder(corpus, tmp_path):
  prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  code = """if True:
    import sys
    from data_pipeline.prepare import Settings, prepare
    import data_pipeline.records
    settings = Settings(shard_size=3, max_characters=50)
    prepare('manifest', sys.argv[1], sys.argv[2], settings=settings)
    print('apache_beam' in sys.modules)
  """
  command = [sys.executable, '-c', code, corpus, tmp_path / 'out']
  assert subprocess.check_output(command, env=_environment()) == b'False\n'


def test_finished_folder_is_reused(corpus, tmp_path, monkeypatch):
  out = tmp_path / 'out'
  info = prepare('manifest', corpus, out, settings=SMALL)
  before = content(out)
  monkeypatch.setattr(audio, 'read', None)  # would fail
  assert prepare('manifest', corpus, out, settings=SMALL) == info
  assert content(out) == before


@pytest.mark.parametrize(
  'change, message',
  [
    ('text', '00002-of-00003.array_record: .*manifest.jsonl'),
    ('audio', '00001-of-00003.array_record: .*manifest.jsonl'),
    ('settings', 'out: .*max_characters=50, not 51'),
    ('encoding', "out: .*encoding='flac', not 'int16'"),
    ('more', r'00000-of-00003.array_record: .*\b4 shards'),
    ('fewer', r'00000-of-00003.array_record: .*\b1 shards'),
  ],
)
def test_folder_of_another_corpus_is_not_changed(corpus, tmp_path, change, message):
  out, settings = tmp_path / 'out', SMALL
  prepare('manifest', corpus, out, settings=SMALL)
  before = content(out)
  match change:
    case 'text':
      corpus.write_text(corpus.read_text().replace('Antwort 6', 'Antwort 7'))
    case 'audio':
      os.utime(corpus.parent / 'audio/3.flac', (1, 1))
    case 'settings':
      settings = dataclasses.replace(SMALL, max_characters=51)
    case 'encoding':
      settings = dataclasses.replace(SMALL, encoding='int16')
    case 'more':
      for i in range(3):
        append_entry(corpus, audio_filepath='audio/0.flac', id=f'v{i}')
    case 'fewer':
      corpus.write_text(corpus.read_text().splitlines()[0])
  with pytest.raises(ValueError, match=f'{message}.*out .*--output'):
    prepare('manifest', corpus, out, settings=settings)
  assert content(out) == before


@pytest.fixture
def damaged(corpus, write_audio):
  """The corpus with nine more utterances that cannot be used."""
  folder = corpus.parent
  (folder / 'empty.wav').touch()
  (folder / 'text.wav').write_text('this is not audio')
  whole = write_audio(folder / 'whole.wav').read_bytes()
  (folder / 'half.wav').write_bytes(whole[: len(whole) // 2])
  write_audio(folder / 'g721.wav', 'G721_32')
  for name in ('missing', 'empty', 'text', 'half', 'g721'):
    append_entry(corpus, audio_filepath=f'{name}.wav')
  append_entry(corpus, audio_filepath='whole.wav', id='u0')
  append_entry(corpus, audio_filepath='whole.wav', id='silent', text=' \t')
  append_entry(corpus, audio_filepath='whole.wav', id='long', text='x' * 51)
  with corpus.open('a') as file:
    file.write('{"audio_filepath"\n')
  return corpus


def test_utterances_without_speech_are_counted_and_kept(corpus, tmp_path):
  soundfile.write(corpus.parent / 'silent.wav', np.zeros(8_000), 16_000)
  append_entry(corpus, audio_filepath='silent.wav', id='hush')
  info = prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  assert info['examples'] == 8 and 'hush' in info['without_speech']['ids']
  assert info['without_speech']['count'] == len(info['without_speech']['ids']) < 8


def test_unusable_utterances_are_counted_and_listed(damaged, tmp_path, capsys):
  out = tmp_path / 'out'
  info = prepare('manifest', damaged, out, settings=SMALL, max_skipped=0.6)
  assert info['examples'] == 7 == len(records.Dataset(out))
  assert info['skipped_by_field'] == {
    'content': 3, 'text': 2, 'file': 1, 'codec': 1, 'id': 1, 'line': 1
  }  # fmt: skip
  listed = (out / 'skipped.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in listed] == info['skipped']
  reasons = [entry['reason'] for entry in info['skipped']]
  for part in (
    'missing.wav: file cannot be read (No such file',
    'empty.wav: content is empty (0 bytes)',
    'text.wav: content is damaged or in an unknown format',
    'half.wav: content is truncated: ',
    'g721.wav: codec is g726, which is not supported',
    "whole.wav: id 'u0' ",
    'whole.wav: text is empty',
    'whole.wav: text has 51 characters, limit 50',
    'manifest.jsonl line 16: line is not JSON',
  ):
    assert sum(part in reason for reason in reasons) == 1, part
  printed = capsys.readouterr().err
  assert all(reason in printed for reason in reasons)
  assert 'prepare: 16 of 16\n' in printed


def test_every_kind_of_damage_is_one_skipped_utterance(
  tmp_path, write_audio, monkeypatch
):
  split = tmp_path / 'mls_polish/train'
  paths = [write_audio(split / f'audio/1/2/1_2_{i:06d}.flac') for i in range(6)]
  lines = [f'1_2_{i:06d}\tsłowo {i}'.encode() for i in range(6)]
  lines[1] = '1_2_000001\tsłowo 1'.encode('latin2')
  lines.append(b'1_2_000005\tagain')
  (split / 'transcripts.txt').write_bytes(b'\n'.join(lines))
  paths[2].write_bytes(paths[2].read_bytes()[:-200])
  # A header that states 11 days, and a file one second over the limit.
  forged = bytearray(paths[3].read_bytes())
  forged[21:26] = bytes([forged[21] | 0xF]) + b'\xff' * 4
  paths[3].write_bytes(forged)
  soundfile.write(paths[4], np.zeros(16_000 * 601, np.int16), 16_000)
  plan_shards = plan.plan_shards

  def plan_and_delete_a_file(*arguments):
    shard_plan = plan_shards(*arguments)
    paths[5].unlink()
    return shard_plan

  monkeypatch.setattr(plan, 'plan_shards', plan_and_delete_a_file)
  info = prepare('mls', split.parent, tmp_path / 'out', max_skipped=0.9)
  assert info['examples'] == 1
  fields = {entry['id'] + entry['field'] for entry in info['skipped']}
  assert fields == {
    '1_2_000001text', '1_2_000002content', '1_2_000003content', '1_2_000004duration',
    '1_2_000005file', '1_2_000005id',
  }  # fmt: skip


def test_skipped_jsonl_lists_all_and_dataset_json_only_100(corpus, tmp_path, capsys):
  for i in range(150):
    append_entry(corpus, audio_filepath=f'none{i}.wav')
  info = prepare('manifest', corpus, tmp_path / 'out', max_skipped=1.0)
  assert info['skipped_by_field'] == {'file': 150}
  listed = (tmp_path / 'out/skipped.jsonl').read_text().splitlines()
  assert len(listed) == 150 and json.loads(listed[-1])['id'] == 'none149'
  assert [json.loads(line) for line in listed[:100]] == info['skipped']
  printed = capsys.readouterr().err
  assert printed.count('prepare: skipped none') == 100
  assert 'prepare: skipped 50 more, see ' in printed


def test_missing_progress_file(corpus, tmp_path, monkeypatch):
  monkeypatch.setattr(shard, 'make_shard', print)  # a worker that writes elsewhere
  with pytest.raises(ValueError, match='progress/data-00000.*json: cannot be read'):
    prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)


def test_too_many_skips_fail_but_keep_the_shards(damaged, tmp_path, monkeypatch):
  out = tmp_path / 'out'
  message = r'\b9 of 16\b.*limit 50.0%.*--max_skipped.*out'
  with pytest.raises(ValueError, match=message):
    prepare('manifest', damaged, out, settings=SMALL, max_skipped=0.5)
  assert not (out / 'dataset.json').exists()
  monkeypatch.setattr(audio, 'read', None)  # would fail
  prepare('manifest', damaged, out, settings=SMALL, max_skipped=0.6)
  assert len(records.Dataset(out)) == 7


def test_repaired_file_remakes_only_its_shard(corpus, tmp_path, write_audio):
  path = corpus.parent / 'audio/4.flac'
  intact = path.read_bytes()
  path.write_bytes(intact[:500])
  with pytest.raises(ValueError, match='1 of 7'):
    prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  first = tmp_path / 'out/data-00000-of-00003.array_record'
  date = first.stat().st_mtime_ns
  path.write_bytes(intact)
  info = prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  assert info['examples'] == 7 and first.stat().st_mtime_ns == date


def test_corpus_without_usable_utterances(tmp_path):
  with pytest.raises(ValueError, match='--corpus=folder'):
    prepare('folder', tmp_path, tmp_path / 'out')
  (tmp_path / 'm.jsonl').write_text('{"audio_filepath": "a.wav", "text": "hi"}')
  with pytest.raises(ValueError, match=r'\b1 of 1\b'):
    prepare('manifest', tmp_path / 'm.jsonl', tmp_path / 'out', max_skipped=1.0)


def _environment():
  return os.environ | {'PYTHONPATH': os.getcwd()}


def test_settings_cannot_change_between_runs(corpus, tmp_path, write_audio):
  write_audio(corpus.parent / 'audio/4.flac', 'PCM_16', seconds=0.01)
  with pytest.raises(ValueError, match='1 of 7'):
    prepare('manifest', corpus, tmp_path / 'out', settings=SMALL)
  smaller = dataclasses.replace(SMALL, shard_size=2)
  with pytest.raises(ValueError, match='out: .*shard_size=3, not 2'):
    prepare('manifest', corpus, tmp_path / 'out', settings=smaller)


@pytest.mark.full
def test_program(corpus, tmp_path, start_program):
  arguments = (f'--input={corpus}', f'--output={tmp_path / "out"}')
  done = start_program('data_pipeline.prepare', *arguments)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('prepare: 7 utterances, 0.00 hours, 0 skipped, in ')
  assert 'prepare: 7 of 7\n' in done.stderr


@pytest.mark.full
def test_program_with_too_many_skips(corpus, tmp_path, run_program):
  append_entry(corpus, audio_filepath='none.wav')
  arguments = (f'--input={corpus}', f'--output={tmp_path / "out"}')
  done = run_program('data_pipeline.prepare', *arguments)
  assert done.returncode == 1
  *_, listed, last = done.stderr.splitlines()
  assert listed.startswith('prepare: skipped none: ') and 'none.wav: file' in listed
  assert last.startswith('error: 1 of 8 ')
