# SPDX-License-Identifier: Apache-2.0
"""The load generator, against a server with a fake model."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import uvicorn

from acl_jax.serving.app import make_app
from benchmarks import serve_clients, serve_questions, serve_realtime, serve_soak
from benchmarks.serve_process import ServerProcess
from benchmarks.serve_questions import RATE, Questions
from tests.serving.fakes import REPLY, make_service

LIMIT = 99  # tokens: more than REPLY has


@pytest.fixture
def service():
  service = make_service(context=2_000)
  yield service
  service.close(0.0)


@pytest.fixture
def server(service, tmp_path):
  """A server whose process is this one."""
  server = ServerProcess([], tmp_path / 'log')
  with running(make_app(service), server.port):
    yield server


@contextlib.contextmanager
def running(app, port):
  config = uvicorn.Config(
    app, lifespan='off', log_level='critical', ws='websockets-sansio'
  )
  bound = socket.create_server(('127.0.0.1', port))
  uvicorn_server = uvicorn.Server(config)
  thread = threading.Thread(target=uvicorn_server.run, kwargs={'sockets': [bound]})
  thread.start()
  try:
    while not uvicorn_server.started:
      time.sleep(0.01)
    yield
  finally:
    uvicorn_server.should_exit = uvicorn_server.force_exit = True
    thread.join()


def ask_all(url, bodies, num_clients):
  async def run():
    async with serve_clients.open_client(url) as client:
      return await serve_clients.ask_all(client, bodies, num_clients)

  return asyncio.run(run())


def body(samples, **options):
  return serve_clients.chat_body([serve_clients.question(samples)], LIMIT, **options)


def test_questions_are_unique_and_sound_the_same():
  first, again = Questions(3), Questions(3)
  count = len(serve_questions.read_recordings())
  questions = first.take(count + 1)
  assert len({each.tobytes() for each in questions}) == count + 1
  assert questions[2].tobytes() == again.take(3)[2].tobytes()
  same = questions[count].astype(float) - questions[0]
  assert 0 < np.abs(same).max() < 33  # 60 dB below full scale
  assert all(3.4 * RATE < len(each) < 4.6 * RATE for each in questions)
  assert len(first.utterance(20.0)) == 20 * RATE


def test_questions_reach_another_process(tmp_path):
  questions = Questions(0).take(2)
  serve_questions.save(tmp_path / 'questions.npz', questions)
  loaded = serve_questions.load(tmp_path / 'questions.npz')
  for samples, read in zip(questions, loaded, strict=True):
    np.testing.assert_array_equal(read * 32_768, samples)


def test_answers_are_timed_and_counted(server, service):
  service.engine.seconds = 0.005
  bodies = [body(samples) for samples in Questions(0).take(5)]
  answers, seconds = ask_all(server.url, bodies, 2)
  assert [a.text for a in answers] == [REPLY] * 5 and not any(a.error for a in answers)
  figures = serve_clients.summarise(answers, seconds)
  count = len(REPLY.encode()) + 1
  assert figures['errors'] == 0
  assert figures['tokens_per_second'] == pytest.approx(5 * count / seconds)
  assert 5 < figures['ttft_ms_p50'] <= figures['ttft_ms_p95'] < 1_000 * seconds
  (spoken,), _ = ask_all(server.url, [body(Questions(1).take(1)[0], spoken=True)], 1)
  assert spoken.text == REPLY and not spoken.error
  assert spoken.first_audio is not None and spoken.first_token < spoken.first_audio


def test_errors_are_counted(server, service):
  bodies = [body(samples) for samples in Questions(0).take(2)]
  service.engine.broken = True
  answers, seconds = ask_all(server.url, [*bodies, b'{}'], 1)
  assert 'the model failed' in answers[0].error and answers[2].error[:3] == '400'
  assert serve_clients.summarise(answers, seconds)['errors'] == 3
  service.voice.fails_on, service.engine.broken = 'test', False
  (spoken,), _ = ask_all(server.url, [body(Questions(1).take(1)[0], spoken=True)], 1)
  assert 'the voice' in spoken.error


def test_second_turns_count_what_is_computed(server, service):
  async def run():
    async with serve_clients.open_client(server.url) as client:
      return await serve_clients.second_turns(client, Questions(0), 2, LIMIT)

  ratio, errors = asyncio.run(run())
  assert not errors
  first, second = (ticket.num_prompt for ticket in service.engine.requests[:2])
  computed = second - second // 2  # the fake engine reuses half of any prompt
  new = second - first - len(REPLY.encode())
  assert ratio == pytest.approx(computed / new, rel=0.1)


def test_utterances_are_said_in_real_time(server):
  questions = Questions(0)
  short, long = [questions.utterance(0.3)], [questions.utterance(0.8)]
  start = time.monotonic()
  result = asyncio.run(serve_realtime.compare(server.url, short, long, LIMIT))
  elapsed = 1_000 * (time.monotonic() - start)
  parts = result['utterance_ms']
  total = parts['short']['first_delta'] + parts['long']['first_delta']
  assert 0 < total < elapsed - 1_000  # the rest they were being said
  assert 0 <= parts['long']['hear'] <= parts['long']['first_delta']
  ratio = parts['long']['first_delta'] / parts['short']['first_delta']
  assert result['long_utterance_ratio'] == pytest.approx(ratio)


def test_a_soak_reports_memory_and_errors(server, service, monkeypatch):
  monkeypatch.setattr(serve_soak, 'SAMPLE_SECONDS', 0.2)
  server._process = SimpleNamespace(pid=os.getpid())
  service.engine.seconds = 0.002
  result = asyncio.run(serve_soak.soak(server, 1 / 60, 2, LIMIT))
  assert 1 <= 60 * result['minutes'] < 60 and result['requests'] > 0
  assert len(result['memory_mib']) > 1 and result['errors'] == 0
  assert 10 < result['memory_mib_start'] < 2 * result['memory_mib_end']
  assert len(service.engine.requests) == result['requests'] + 8  # 4 a client before


def test_compilations_are_counted_from_ready_on(server, service):
  name, x = 'acl_jax_compilations_total', np.ones((5, 3))
  jax.jit(lambda x: x + 1)(x)
  assert server.counter(name) == 0
  service.metrics.count_compilations()
  try:
    compiled = jax.jit(lambda x: x + 2)
    compiled(x)
    compiled(x)
    assert server.counter(name) == 1
  finally:
    jax.monitoring.clear_event_listeners()


@pytest.mark.full
def test_a_server_that_does_not_start_is_quoted(tmp_path):
  with pytest.raises(RuntimeError, match=r'its last words:\n.*nowhere\.py'):
    with ServerProcess(['--config=nowhere.py'], tmp_path / 'log'):
      pass
