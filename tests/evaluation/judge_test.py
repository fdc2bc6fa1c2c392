# SPDX-License-Identifier: Apache-2.0
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation import judge_http
from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.judge import (
  Judge,
  JudgeError,
  parse_agreement,
  parse_grade,
)
from acl_jax.evaluation.judge_http import Failure, post_json


def completion(*texts):
  messages = [{'role': 'assistant', 'content': text} for text in texts]
  return {'choices': [{'message': message} for message in messages]}


class Script:
  """A transport that replies with what is in a list, or raises it."""

  def __init__(self, *replies):
    self.replies, self.requests, self.waits = list(replies), [], []

  def __call__(self, url, body, headers):
    self.requests.append((url, body, headers))
    reply = self.replies.pop(0)
    if isinstance(reply, Failure):
      raise reply
    return completion(reply) if isinstance(reply, str) else reply

  def judge(self, path, url='http://x/v1/'):
    return Judge(url, 'm', ResultCache(path), post=self, sleep=self.waits.append)


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'judge.jsonl'


def test_a_grade_is_the_mean_of_three_votes(path, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', 'secret')
  script = Script('4', '[[5]]', 'Score: 3.5')
  assert script.judge(path).grade('Why {this}?', 'So {that}.') == 12.5 / 3
  url, body, headers = script.requests[0]
  assert url == 'http://x/v1/chat/completions'
  assert headers == {'Authorization': 'Bearer secret'}
  assert (body['model'], body['temperature']) == ('m', 0.5)
  question = body['messages'][-1]['content']
  assert 'Why {this}?' in question and 'So {that}.' in question
  assert 'secret' not in path.read_text()


def test_a_server_that_replies_several_times_is_asked_once(path):
  script = Script(completion('1', 'what?', '2'), completion('3', '5', '5'))
  assert script.judge(path).grade('q', 'a') == 2
  assert [body['n'] for _, body, _ in script.requests] == [3, 1]


def test_a_server_that_refuses_that_is_asked_three_times(path):
  script = Script(Failure('returned status 400', False, status=400), '1', '1', '4')
  assert script.judge(path).grade('q', 'a') == 2
  assert [body['n'] for _, body, _ in script.requests] == [3, 1, 1, 1]
  assert sum(script.waits) == 0


@pytest.mark.parametrize(
  'votes, expected',
  [(('Yes', 'no.', 'YES!'), True), (('No', '**No**', 'yes'), False)],
)
def test_agreement_is_by_majority(path, votes, expected):
  assert Script(*votes).judge(path).agrees('q', 'r', 'a') is expected


def test_replies_are_cached_vote_by_vote(path):
  broken = Failure('returned status 400', retry=False)
  with pytest.raises(JudgeError, match='m returned status 400'):
    Script('2', '3', broken).judge(path).grade('q', 'a')
  script = Script('4')
  assert script.judge(path).grade('q', 'a') == 3
  assert Script().judge(path).grade('q', 'a') == 3
  assert len(script.requests) == 1
  with pytest.raises(IndexError):  # another answer is another question
    Script().judge(path).grade('q', 'b')


def test_what_may_pass_is_asked_again_later(path):
  busy = Failure('returned status 429', retry=True, wait=17.0)
  script = Script(busy, 'no idea', completion(None), '1', '1', '1')
  assert script.judge(path).grade('q', 'a') == 1
  assert script.waits[:4] == [0, 17, 2, 4]


@pytest.mark.parametrize(
  'reply, problem',
  [
    (Failure('did not reply within 60 s', retry=True), 'did not reply within 60 s'),
    (
      'As a judge, I like it.',
      "replied 'As a judge, I like it.', which is not a score",
    ),
    ('0', "replied '0', which"),
    ({'choices': []}, r'without choices\[0\]\.message\.content'),
  ],
)
def test_a_case_that_cannot_be_scored_is_one_sentence(path, reply, problem):
  script = Script(*[reply] * 5)
  with pytest.raises(JudgeError, match=f'http://x/v1/chat/completions: .* {problem}'):
    script.judge(path).grade('q', 'a')
  assert script.replies == []


def test_a_judge_that_is_down_is_not_asked_for_ever(path):
  script = Script(*[Failure('returned status 401', retry=False)] * 3)
  judge = script.judge(path)
  for number in range(5):
    with pytest.raises(JudgeError, match='401' if number < 3 else 'not asked, as 3'):
      judge.grade(f'q{number}', 'a')
  assert len(script.requests) == 3


@pytest.mark.parametrize('url', ['', 'x/v1', 'file:///etc/passwd', 'http://'])
def test_the_url_must_be_http(path, url):
  with pytest.raises(ValueError, match='--judge_url is '):
    Script().judge(path, url)


@pytest.mark.parametrize(
  'text, grade',
  [
    ('5', 5),
    (' **4** ', 4),
    ('[[3]]', 3),
    ('Rating: 2/5', 2),
    ('The score is 4.5.', 4.5),
    ('<think>maybe 1</think>\n5', 5),
    ('10', None),
    ('6', None),
    ('-3', None),
    ('On a scale of 1 to 5, 4', None),
    ('', None),
  ],
)
def test_grades(text, grade):
  assert parse_grade(text) == grade


@given(st.text())
def test_any_reply_is_a_vote_or_none(text):
  grade = parse_grade(text)
  assert grade is None or 1 <= grade <= 5
  assert parse_agreement(text) in (None, 0, 1)


class Handler(BaseHTTPRequestHandler):
  def do_POST(self):
    self.rfile.read(int(self.headers['Content-Length']))
    self.server.seen.append(self.path)  # before the reply, after which a test looks
    status, body, headers = self.server.reply
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *args):
    pass


@pytest.fixture
def server():
  server = HTTPServer(('127.0.0.1', 0), Handler)
  server.seen = []
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield server
  server.shutdown()
  thread.join()
  server.server_close()


def post(server):
  return post_json(f'http://127.0.0.1:{server.server_port}/v1', {'a': 1}, {})


def test_a_reply_over_http(server):
  server.reply = (200, json.dumps(completion('Yes')).encode(), {})
  assert post(server) == completion('Yes')


@pytest.mark.parametrize(
  'reply, problem, retry, wait',
  [
    ((429, b'', {'Retry-After': '7'}), 'returned status 429', True, 7),
    ((503, b'', {'Retry-After': '1e9'}), 'returned status 503', True, 60),
    ((500, b'', {'Retry-After': 'Mon, 1 Jan'}), 'returned status 500', True, 0),
    ((401, b'', {}), 'returned status 401', False, 0),
    ((302, b'', {'Location': '/other'}), 'returned status 302', False, 0),
    ((200, b'<html>', {}), 'returned something that is not JSON', True, 0),
    ((200, b'[' * 99_999, {}), 'returned something that is not JSON', True, 0),
    ((200, b' ' * 200_001, {}), 'returned more than 200000 bytes', True, 0),
  ],
)
def test_a_bad_reply_over_http(server, monkeypatch, reply, problem, retry, wait):
  monkeypatch.setattr(judge_http, 'MAX_BYTES', 200_000)
  server.reply = reply
  with pytest.raises(Failure, match=problem) as failure:
    post(server)
  assert (failure.value.retry, failure.value.wait) == (retry, wait)
  assert server.seen == ['/v1']


def test_nobody_there(server):
  server.shutdown()
  server.server_close()
  with pytest.raises(Failure, match='cannot be reached') as failure:
    post(server)
  assert failure.value.retry


def test_a_server_that_is_silent(server, monkeypatch):
  monkeypatch.setattr(judge_http, 'TIMEOUT', 0.05)
  monkeypatch.setattr(Handler, 'do_POST', lambda self: threading.Event().wait(0.5))
  with pytest.raises(Failure, match=r'did not reply within 0\.05 s'):
    post(server)
