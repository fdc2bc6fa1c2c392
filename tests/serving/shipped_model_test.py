# SPDX-License-Identifier: Apache-2.0
"""Conversations with the shipped model on one server: of a client, and in a browser."""

import asyncio
import base64
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile

from acl_jax.serving.voice import Voice
from tests.serving.realtime_fakes import encode, silence

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[2]
PIECE = 2 * 24_000 // 25  # 40 ms
LEAD = 0.5  # seconds before the question
COLLECT = """
  window.usage = [];
  talk.connection.addEventListener('event', ({detail}) => {
    if (detail.type === 'response.done') usage.push(detail.response.usage);
  });
"""


@pytest.fixture(scope='module')
def url(tmp_path_factory) -> Iterator[str]:
  log = tmp_path_factory.mktemp('serve') / 'log'
  command = [sys.executable, '-m', 'acl_jax.serve', '--config=configs/smol.py']
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  with open(log, 'wb') as file:
    server = subprocess.Popen(
      [*command, '--port=0'], cwd=ROOT, env=environment, stderr=file
    )
  try:
    yield wait_ready(server, log)
  finally:
    server.terminate()
    server.wait(60)


def wait_ready(server: subprocess.Popen, log: Path) -> str:
  end = time.monotonic() + 15 * 60
  while time.monotonic() < end:
    if found := re.search(r'ready after.*(http\S+)', log.read_text()):
      return found[1]
    assert server.poll() is None, log.read_text()
    time.sleep(0.2)
  raise TimeoutError(log.read_text())


async def record(text):
  """Return a spoken text as 24 kHz PCM."""
  voice = Voice()
  await voice.start()
  try:
    return b''.join([pcm async for pcm in voice.speak(text)])
  finally:
    await voice.close()


class Client:
  def __init__(self, connection):
    self.connection, self.events = connection, []

  async def until(self, kind):
    async with asyncio.timeout(180):
      while True:
        self.events.append(await self.connection.recv())
        if self.events[-1].type == kind:
          return self.events[-1]

  async def say(self, pcm):
    """Send audio in real time."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number, at in enumerate(range(0, len(pcm), PIECE)):
      await self.connection.input_audio_buffer.append(
        audio=encode(pcm[at : at + PIECE])
      )
      await asyncio.sleep(max(0.0, start + 0.04 * number - loop.time()))

  def of(self, kind):
    return [event for event in self.events if event.type == kind]


async def converse(url, question, interruption):
  client = openai.AsyncOpenAI(api_key='none', base_url=f'{url}v1')
  async with client, client.realtime.connect(model='smol') as connection:
    talk = Client(connection)
    await talk.until('session.created')
    await talk.say(silence(0.5) + question + silence(1.0))
    answer = (await talk.until('response.done')).response
    assert answer.status == 'completed', answer
    (heard,) = talk.of('conversation.item.input_audio_transcription.completed')
    assert 'capital' in heard.transcript.lower() and heard.logprobs
    written = ''.join(
      e.delta for e in talk.of('response.output_audio_transcript.delta')
    )
    assert written == answer.output[0].content[0].transcript and 'Paris' in written
    sound = b''.join(
      base64.b64decode(e.delta) for e in talk.of('response.output_audio.delta')
    )
    assert len(sound) > 24_000
    print(f'\nheard {heard.transcript!r}, answered {written!r}, {answer.timing}')

    content = [{'type': 'input_text', 'text': 'Tell me a long story about that city.'}]
    await connection.conversation.item.create(
      item={'type': 'message', 'role': 'user', 'content': content}
    )
    await connection.response.create()
    await talk.until('response.output_audio.delta')
    speaking = asyncio.create_task(talk.say(silence(0.3) + interruption + silence(1.0)))
    story = (await talk.until('response.done')).response
    assert story.status == 'cancelled', story
    assert story.status_details.reason == 'turn_detected'
    assert story.usage.input_token_details.cached_tokens > 0
    item = story.output[0]
    print(f'interrupted after {item.content[0].transcript!r}, {story.timing}')
    await connection.conversation.item.truncate(
      item_id=item.id, content_index=0, audio_end_ms=200
    )
    await talk.until('conversation.item.truncated')
    await speaking
    last = (await talk.until('response.done')).response
    # What was cut off decides what it answers: it may ramble up to its limit of tokens.
    assert last.status in ('completed', 'incomplete'), last
    print(f'then {last.output[0].content[0].transcript!r}, {last.timing}')
    assert not talk.of('error')


def test_a_client_speaks_writes_and_interrupts(url):
  async def main():
    question = await record('What is the capital of France?')
    interruption = await record('Wait. What is two plus two?')
    await converse(url, question, interruption)

  asyncio.run(main())


@pytest.fixture(scope='module')
def question(url: str, tmp_path_factory) -> tuple[Path, float]:
  """A question that the voice of the server speaks, and when it ends."""
  body = {
    'model': 'smol',
    'voice': 'default',
    'input': 'What is the capital of France?',
    'response_format': 'wav',
  }
  headers = {'Content-Type': 'application/json'}
  request = urllib.request.Request(
    f'{url}v1/audio/speech', json.dumps(body).encode(), headers
  )
  with urllib.request.urlopen(request) as response:
    speech, rate = soundfile.read(io.BytesIO(response.read()))
  lead, tail = np.zeros(int(LEAD * rate)), np.zeros(20 * rate)
  path = tmp_path_factory.mktemp('microphone') / 'question.wav'
  soundfile.write(path, np.concatenate([lead, speech, tail]), rate)
  return path, LEAD + speech.size / rate


def test_a_conversation_in_a_browser(url, question):
  chromium = pytest.importorskip('tests.serving.chromium', reason='no selenium')
  from selenium.webdriver.common.action_chains import ActionChains
  from selenium.webdriver.common.keys import Keys

  if not (chromium.CHROMIUM and chromium.DRIVER):
    pytest.skip(chromium.MISSING)
  path, seconds = question
  browser = chromium.open_chromium(path)
  try:
    page = chromium.Page(browser, patience=300).open(url)
    page.script(COLLECT)
    page.hold(seconds + 0.5)
    assert 'Paris' in page.wait_for_reply()
    assert 'what is the capital of france' in page.text('.heard').lower()
    assert page.player('samplesReceived') > 0
    page.wait(lambda: page.state == 'idle')
    assert page.player('samplesPlayed') == page.player('samplesReceived')

    page.write('What country is it the capital of?')
    assert page.wait_for_reply(2)
    # So small a model need not remember, but it must have read the first turn again.
    page.wait(lambda: len(page.script('return window.usage')) == 2)
    first, second = page.script('return window.usage')
    assert second['input_tokens'] > first['input_tokens'] + first['output_tokens']
    page.wait(lambda: page.state == 'idle')

    page.write('Tell me a long story about a dog and a cat.')
    page.wait(lambda: page.state == 'speaking' and page.player('seconds') > 0.5)
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert page.player('playing') is None
    page.wait(lambda: page.texts('.unheard')[-1])
    assert page.state == 'idle'
    assert browser.get_log('browser') == []
  finally:
    browser.quit()
