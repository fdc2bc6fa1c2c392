# SPDX-License-Identifier: Apache-2.0
"""The page of tasks in a real headless Chromium."""

import pytest

pytest.importorskip('selenium', reason='the browser tests need selenium')

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

from acl_jax.evaluation.report import write_pages  # noqa: E402
from tests.evaluation.measured_tasks import write_folder  # noqa: E402
from tests.serving.chromium import (  # noqa: E402
  CHROMIUM,
  DRIVER,
  MISSING,
  open_chromium,
)

pytestmark = [
  pytest.mark.full,
  pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]
SHOWN = (
  "return [...document.querySelectorAll('.case:not([hidden])')]"
  '.map(e => ({...e.dataset}))'
)


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  folder = write_folder(tmp_path_factory.mktemp('report'))
  write_pages(folder, 'Six tasks')
  browser = open_chromium(None)
  browser.get((folder / 'report.html').as_uri())
  yield browser
  assert browser.get_log('browser') == []  # violations of the CSP would be here too
  browser.quit()


def choose(browser, name, value):
  Select(browser.find_element(By.NAME, name)).select_by_value(value)


def test_filters_and_failures_first(browser):
  every = browser.execute_script(SHOWN)
  assert (
    browser.find_element(By.ID, 'shown').text
    == f'{len(every)} of {len(every)} examples'
  )
  choose(browser, 'task', 'conversation')
  choose(browser, 'arm', 'cascade')
  choose(browser, 'answer', 'wrong')
  shown = browser.execute_script(SHOWN)
  expected = [
    case
    for case in every
    if case['task'] == 'conversation' and 'cascade' in case['wrong'].split()
  ]
  assert shown == expected and shown
  choose(browser, 'task', '')
  choose(browser, 'answer', '')
  browser.find_element(By.NAME, 'failures').click()
  ordered = [
    'cascade' in case['wrong'].split() for case in browser.execute_script(SHOWN)
  ]
  assert ordered == sorted(ordered, reverse=True) and any(ordered)
  browser.find_element(By.NAME, 'failures').click()
  assert browser.execute_script(SHOWN) == every


def test_audio_plays_one_at_a_time(browser):
  playing = browser.execute_async_script("""
    const done = arguments[0];
    const [a, b] = document.querySelectorAll('audio');
    a.muted = b.muted = a.loop = true;
    a.play().then(() => b.play()).then(() => setTimeout(
      () => done([a.duration > 0.1, a.paused, b.duration > 0.1]), 50));
  """)
  assert playing == [True, True, True]


def test_probabilities_of_every_word_on_request(browser):
  sure = browser.find_element(By.CSS_SELECTOR, '.word.sure small')
  unsure = browser.find_element(By.CSS_SELECTOR, '.word.unsure small')
  assert unsure.is_displayed() and not sure.is_displayed()
  browser.find_element(By.ID, 'posteriors').click()
  assert sure.is_displayed()


@pytest.mark.parametrize('width', [390, 1100])
def test_the_page_does_not_scroll_sideways(browser, width):
  size = {'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': False}
  browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
  assert browser.execute_script('return document.documentElement.scrollWidth') <= width
