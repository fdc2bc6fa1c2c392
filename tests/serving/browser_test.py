# SPDX-License-Identifier: Apache-2.0
"""The page in a real headless Chromium; a recorded file is its microphone."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip('selenium', reason='the browser tests need selenium')

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.serving.chromium import (  # noqa: E402
  CHROMIUM,
  DRIVER,
  MISSING,
  Page,
  open_chromium,
)
from tests.serving.fake_realtime import HEARD, RATE, FakeServer  # noqa: E402

pytestmark = [
  pytest.mark.full,
  pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

TONE = 440.0
LEAD, SPEECH = 0.6, 1.2  # seconds of silence and of the tone in the file


@pytest.fixture(scope='module')
def server() -> Iterator[FakeServer]:
  server = FakeServer()
  server.start()
  yield server
  server.stop()


@pytest.fixture(scope='module')
def microphone(tmp_path_factory) -> Path:
  """Silence, a tone, silence."""
  t = np.arange(int(SPEECH * 48_000)) / 48_000
  tone = 0.4 * np.sin(2 * np.pi * TONE * t)
  silence = np.zeros(int(LEAD * 48_000))
  path = tmp_path_factory.mktemp('microphone') / 'tone.wav'
  sound = np.concatenate([silence, tone, np.zeros(10 * 48_000)])
  soundfile.write(path, sound, 48_000, subtype='PCM_16')
  return path


@pytest.fixture(scope='module')
def chromium(microphone: Path) -> Iterator[webdriver.Chrome]:
  browser = open_chromium(microphone)
  yield browser
  browser.quit()


@pytest.fixture
def page(chromium: webdriver.Chrome, server: FakeServer) -> Iterator[Page]:
  """The page as on a first visit; nothing may be reported in the console."""
  chromium.get(f'{server.url}page/icon.svg')
  clear = "const done = arguments[0]; indexedDB.deleteDatabase('talk').onsuccess = done"
  chromium.execute_async_script(clear)
  chromium.get_log('browser')
  server.received.clear()
  server.recordings.clear()
  yield Page(chromium).open(server.url)
  assert chromium.get_log('browser') == []  # violations of the CSP would be here too


def test_a_spoken_turn_is_heard_and_answered_in_text_and_sound(page, server):
  page.hold(LEAD + SPEECH + 0.4)
  assert page.wait_for_reply() == f'You asked: {HEARD}. <b>That is all.</b>'
  assert not page.all('.said b')  # text, never HTML
  assert page.text('.heard') == HEARD
  page.wait(lambda: page.state == 'idle')
  num_words = len(page.texts('.assistant .said')[0].split())
  assert page.player('samplesReceived') == num_words * server.samples_per_word
  assert page.player('samplesPlayed') == page.player('samplesReceived')
  assert 'first word' in page.text('.assistant .facts')
  (event,) = server.of('input_audio_buffer.commit')
  assert event.keys() == {'type'}


def test_the_server_receives_what_the_microphone_hears(page, server):
  page.hold(LEAD + SPEECH + 0.4)
  page.wait_for_reply()
  (pcm,) = server.recordings
  seconds = pcm.size / RATE
  assert LEAD + SPEECH < seconds < LEAD + SPEECH + 2
  loud = np.flatnonzero(np.abs(pcm) > 3000)
  tone = pcm[loud[0] : loud[-1]] / 32768
  assert abs(tone.size / RATE - SPEECH) < 0.1
  spectrum = np.abs(np.fft.rfft(tone * np.hanning(tone.size)))
  assert abs(spectrum.argmax() * RATE / tone.size - TONE) < 2
  beyond = spectrum[int(2 * TONE * tone.size / RATE) :]
  assert beyond.max() < 0.03 * spectrum.max()  # neither aliases nor clicks


def test_an_unsure_word_tells_its_alternatives_by_keyboard(page):
  page.hold(1)
  page.wait_for_reply()
  assert page.texts('.unsure') == ['capitol']
  page.script("document.querySelector('.unsure').focus()")
  tooltip = page.one('#alternatives')
  assert tooltip.is_displayed() and tooltip.text == 'or: capital 41%'
  page.one('.unsure').send_keys(Keys.ESCAPE)
  assert not tooltip.is_displayed()


def test_the_second_turn_refers_to_the_first(page):
  page.hold(1)
  page.wait_for_reply()
  page.write('And of Spain?')
  assert f'Before that you asked: {HEARD}.' in page.wait_for_reply(2)


def test_speaking_interrupts_the_reply(page, server):
  page.write('Tell me a story')
  page.wait(lambda: page.player('seconds') > 1)
  page.script('document.activeElement.blur()')
  page.key('keyDown', ' ', 'Space')
  page.wait(lambda: page.state == 'recording')
  assert page.player('playing') is None
  (event,) = page.wait(lambda: server.of('conversation.item.truncate'))
  assert 1000 < event['audio_end_ms'] < 1000 * page.player('samplesReceived') / RATE
  said = page.texts('.said')[1]
  words = event['audio_end_ms'] * RATE // 1000 // server.samples_per_word
  page.wait(lambda: len(page.texts('.said')[1].split()) == words)
  assert len(page.texts('.unheard')[1]) > len(said)
  time.sleep(0.6)
  page.key('keyUp', ' ', 'Space')
  assert 'Before that you asked: Tell me a story' in page.wait_for_reply(2)


def test_hands_free_the_server_finds_the_turn(page, server):
  page.one('label:has(#hands-free)').click()
  page.wait_for_reply()
  assert page.text('.heard') == HEARD
  update = server.of('session.update')[-1]['session']
  assert update['audio']['input']['turn_detection']['type'] == 'server_vad'
  assert not server.of('response.create')  # the server does that itself
  # The recording that is kept here is the part in which the server heard speech.
  seconds = page.script('return talk.session.conversation.turns[0].seconds')
  assert SPEECH < seconds < SPEECH + 1.5
  assert (
    page.script('return Math.max(...talk.session.conversation.turns[0].peaks)') > 0.1
  )
  page.one('label:has(#hands-free)').click()
  page.wait(lambda: not page.script('return talk.recorder.running'))


def test_replies_can_be_written_only(page, server):
  page.one('label:has(#voice)').click()
  page.write('Hello')
  assert page.wait_for_reply().startswith('You asked: Hello.')
  assert server.of('session.update')[-1]['session']['output_modalities'] == ['text']
  assert page.player('samplesReceived') == 0
  assert page.text('#announcer').startswith('Reply: You asked: Hello.')


def test_a_file_is_sent_with_text_and_can_be_replayed(page, server, microphone):
  page.one('#file').send_keys(str(microphone))
  page.wait(lambda: page.one('#attachment').is_displayed())
  assert page.text('#attachment') == 'tone.wav, 0:12'
  page.write('Who sings?')
  page.wait_for_reply()
  (event,) = server.of('conversation.item.create')
  assert [part['type'] for part in event['item']['content']] == [
    'input_audio',
    'input_text',
  ]
  page.wait(lambda: page.state == 'idle')
  before = page.player('samplesReceived')
  page.one('.user .play').click()
  page.wait(lambda: page.state == 'speaking')
  assert page.player('samplesReceived') == before + round((LEAD + SPEECH + 10) * RATE)
  page.wait(lambda: page.player('level') > 0.1)
  page.one('.user .play').click()
  page.wait(lambda: page.state == 'idle')
  assert not server.of('conversation.item.truncate')  # only live replies are cut


def test_a_file_that_is_no_audio_is_refused(page, server, tmp_path):
  path = tmp_path / 'notes.wav'
  path.write_text('no sound')
  page.one('#file').send_keys(str(path))
  page.wait(lambda: page.one('#notice').is_displayed())
  assert 'cannot read notes.wav as audio' in page.text('#notice')


def test_conversations_stay_in_the_browser(page, server):
  page.hold(1)
  page.wait_for_reply()
  page.wait(lambda: page.state == 'idle')
  server.received.clear()
  page.open(server.url)  # as after closing the page
  page.wait(lambda: len(server.of('conversation.item.create')) == 2)
  created = server.of('conversation.item.create')
  assert [event['item']['role'] for event in created] == ['user', 'assistant']
  assert created[0]['item']['content'][0]['type'] == 'input_audio'
  assert page.text('.heard') == HEARD
  page.write('And of Spain?')
  assert 'Before that you asked: (sound).' in page.wait_for_reply(2)
  page.one('#new').click()
  page.wait(lambda: page.one('#welcome').is_displayed())
  assert page.texts('#conversations .name') == [HEARD]
  page.one('#conversations .open').click()
  page.wait(lambda: page.text('.heard') == HEARD)
  page.one('#conversations .delete').click()
  page.one('dialog .danger').click()
  page.wait(lambda: page.one('#welcome').is_displayed())
  assert page.texts('#conversations .name') == []
  count = (
    'const done = arguments[0]; talk.storage.store("sounds", "readonly").then('
    's => s.count().onsuccess = e => done(e.target.result))'
  )
  assert page.browser.execute_async_script(count) == 0


def test_the_page_comes_back_when_the_server_does(page, server):
  page.write('Hello')
  page.wait_for_reply()
  server.stop()
  page.wait(lambda: 'cannot be reached' in page.text('#status'))
  page.write('Are you there?')
  assert page.wait(lambda: 'as soon as' in (page.text('.user:last-child .facts') or ''))
  server.received.clear()
  server.start()
  assert 'Before that you asked: Hello.' in page.wait_for_reply(2)
  assert page.text('#status') == 'Ready'
  # Failed attempts to connect are reported by the browser itself.
  log = page.browser.get_log('browser')
  assert all('ERR_CONNECTION_REFUSED' in entry['message'] for entry in log), log


@pytest.mark.parametrize(
  ('present', 'allowed', 'reason'),
  [
    (True, False, 'The microphone is blocked.'),
    (False, True, 'No microphone was found.'),
  ],
)
def test_a_refused_or_missing_microphone_is_reported(
  server, microphone, present, allowed, reason
):
  browser = open_chromium(microphone if present else None, allowed)
  try:
    page = Page(browser).open(server.url)
    page.one('#talk').click()
    page.wait(lambda: page.one('#notice').is_displayed())
    assert page.text('#notice').startswith(reason)
    assert page.state == 'idle'
    page.write('Typing works')
    assert page.wait_for_reply().startswith('You asked: Typing works.')
  finally:
    browser.quit()


def test_an_insecure_page_says_why_it_cannot_record(page, server):
  page.open(server.url.replace('localhost', 'insecure.test'))
  assert 'only to secure pages' in page.text('#notice')
  page.write('Typing works')
  assert page.wait_for_reply().startswith('You asked: Typing works.')


def test_a_tap_starts_and_a_second_one_sends(page, server):
  page.one('#talk').click()
  page.wait(lambda: page.state == 'recording')
  time.sleep(0.6)
  page.one('#talk').click()
  page.wait_for_reply()
  page.one('#talk').click()
  page.wait(lambda: page.state == 'recording')
  ActionChains(page.browser).send_keys(Keys.ESCAPE).perform()
  page.wait(lambda: page.state == 'idle')
  assert len(server.of('input_audio_buffer.commit')) == 1
  assert len(page.all('.turn')) == 2


CONTROLS = {'button', 'textbox', 'switch', 'link', 'checkbox', 'image', 'region', 'img'}


def test_every_control_has_a_name(page):
  page.hold(1)
  page.wait_for_reply()
  page.wait(lambda: page.state == 'idle')
  nodes = page.browser.execute_cdp_cmd('Accessibility.getFullAXTree', {})['nodes']
  controls = [
    (node['role']['value'], node['name']['value'])
    for node in nodes
    if not node['ignored'] and node['role']['value'] in CONTROLS
  ]
  assert len(controls) > 15
  assert all(name for _, name in controls), controls
  named = {name for _, name in controls}
  assert {'Talk', 'Send', 'Message', 'Play the reply', 'Hands-free'} <= named


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_can_be_told_from_its_background(page, scheme):
  media = {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]}
  page.browser.execute_cdp_cmd('Emulation.setEmulatedMedia', media)
  pairs = [
    ('--ink', '--page'),
    ('--ink', '--tint'),
    ('--soft', '--page'),
    ('--soft', '--side'),
    ('--soft', '--tint'),
    ('--soft', '--card'),
    ('--live', '--page'),
    ('--danger', '--card'),
    ('--on-accent', '--accent'),
    ('--faint', '--page'),
  ]
  for pair in pairs:
    a, b = sorted(luminance(page, name) for name in pair)
    assert (b + 0.05) / (a + 0.05) >= 4.5, (scheme, pair, (b + 0.05) / (a + 0.05))


def luminance(page: Page, variable: str) -> float:
  """Of a colour of the style, as WCAG defines it."""
  code = 'return getComputedStyle(document.body).getPropertyValue(arguments[0])'
  colour = page.script(code, variable).strip().removeprefix('#')
  rgb = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize('width', [320, 390, 768])
def test_nothing_overflows_on_a_narrow_screen(page, width):
  size = {'width': width, 'height': 640, 'deviceScaleFactor': 1, 'mobile': True}
  page.browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
  try:
    page.write('A_very_long_word_' * 12)
    page.wait_for_reply()
    assert page.script('return document.documentElement.scrollWidth') == width
    assert page.script('return scroll.scrollWidth - scroll.clientWidth') in (0, None)
    page.one('#menu').click()
    page.wait(lambda: page.one('#new').is_displayed())
    assert page.script('return document.activeElement.id') == 'new'
    drawer = (
      'return getComputedStyle(document.getElementById("drawer")).backgroundColor'
    )
    assert page.script(drawer).startswith('rgb(')  # nothing shines through
    ActionChains(page.browser).send_keys(Keys.ESCAPE).perform()
    assert page.script('return document.activeElement.id') == 'menu'
  finally:
    page.browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
