# SPDX-License-Identifier: Apache-2.0
"""The page, the server and the shipped model together, in a headless Chromium."""

import io
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip('selenium', reason='the browser tests need selenium')

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.serving.chromium import (  # noqa: E402
  CHROMIUM,
  DRIVER,
  MISSING,
  Page,
  open_chromium,
)

pytestmark = [
  pytest.mark.full,
  pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

ROOT = Path(__file__).parents[2]
LEAD = 0.5  # seconds before the question
COLLECT = """
  window.usage = [];
  talk.connection.addEventListener('event', ({detail}) => {
    if (detail.type === 'response.done') usage.push(detail.response.usage);
  });
"""


@pytest.fixture(scope='module')
def url() -> Iterator[str]:
  command = [sys.executable, '-m', 'acl_jax.serve', '--config=configs/smol.py']
  server = subprocess.Popen(
    [*command, '--port=0'], cwd=ROOT, stderr=subprocess.PIPE, text=True
  )
  assert server.stderr
  lines = []
  try:
    for line in server.stderr:
      lines.append(line)
      if found := re.search(r'ready.*(http://\S+)', line):
        break
    else:
      pytest.fail('the server ended: ' + ''.join(lines[-20:]))
    yield found[1]
  finally:
    server.terminate()
    server.communicate(timeout=60)


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


def test_a_conversation_in_speech_and_text(url, question):
  path, seconds = question
  browser = open_chromium(path)
  try:
    page = Page(browser, patience=300).open(url)
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
