# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium whose microphone is a file, and the page as a visitor uses it."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
MISSING = "it needs Debian's chromium and chromium-driver"


def open_chromium(microphone: Path | None, allowed: bool = True) -> webdriver.Chrome:
  """A browser with a file as its microphone, or with none; it is asked for nothing."""
  options = webdriver.ChromeOptions()
  options.binary_location = str(CHROMIUM)
  arguments = [
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--window-size=1100,800',
    '--host-resolver-rules=MAP insecure.test 127.0.0.1',
  ]
  if microphone:
    arguments += [
      '--use-fake-device-for-media-stream',
      f'--use-file-for-fake-audio-capture={microphone}%noloop',
    ]
  for argument in arguments:
    options.add_argument(argument)
  setting = 'profile.default_content_setting_values.media_stream_mic'
  options.add_experimental_option('prefs', {setting: 1 if allowed else 2})
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  return webdriver.Chrome(options=options, service=Service(str(DRIVER)))


class Page:
  """What a visitor does and sees."""

  def __init__(self, browser: webdriver.Chrome, patience: float = 20):
    self.browser, self.patience = browser, patience

  def open(self, url: str) -> 'Page':
    self.browser.get(url)
    self.wait(lambda: self.text('#status') == 'Ready')
    return self

  def wait(self, condition: Callable[[], object]):
    end = time.monotonic() + self.patience
    while not (value := condition()):
      assert time.monotonic() < end, (
        f'not in {self.patience} s; page: {self.text("body")}'
      )
      time.sleep(0.03)
    return value

  def all(self, selector: str) -> list:
    return self.browser.find_elements(By.CSS_SELECTOR, selector)

  def one(self, selector: str):
    return self.browser.find_element(By.CSS_SELECTOR, selector)

  def text(self, selector: str) -> str:
    return self.script(
      'return document.querySelector(arguments[0])?.innerText', selector
    )

  def texts(self, selector: str) -> list[str]:
    return self.script(
      'return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)',
      selector,
    )

  def script(self, code: str, *arguments):
    return self.browser.execute_script(code, *arguments)

  @property
  def state(self) -> str:
    return self.script('return window.talk?.session.state')

  def player(self, field: str) -> int:
    return self.script(f'return talk.player.{field}')

  def write(self, text: str) -> None:
    self.one('#message').send_keys(text, Keys.ENTER)

  def hold(self, seconds: float) -> None:
    """Hold the button for so long as something is recorded."""
    ActionChains(self.browser).click_and_hold(self.one('#talk')).perform()
    self.wait(lambda: self.state == 'recording')
    time.sleep(seconds)
    ActionChains(self.browser).release().perform()

  def key(self, kind: str, key: str, code: str) -> None:
    fields = {'type': kind, 'key': key, 'code': code}
    self.browser.execute_cdp_cmd('Input.dispatchKeyEvent', fields)

  def wait_for_reply(self, count: int = 1) -> str:
    """The text of reply number `count`, when it is complete."""
    done = '.assistant:is([data-status="done"], [data-status="cut"])'
    self.wait(lambda: len(self.all(done)) >= count)
    return self.texts('.assistant .said')[count - 1]
