// SPDX-License-Identifier: Apache-2.0
// Filters and orders the examples; without it, all of them are there to read.
'use strict';
(() => {
  const form = document.getElementById('filters');
  const list = document.getElementById('list');
  const shown = document.getElementById('shown');
  if (!form) return;
  const cases = [...list.children];
  const has = (names, name) => names.split(' ').includes(name);

  function matches({ task, right, wrong }, wanted) {
    if (wanted.task && task !== wanted.task) return false;
    if (wanted.answer === 'right') return has(right, wanted.arm);
    if (wanted.answer === 'wrong') return has(wrong, wanted.arm);
    if (wanted.answer === 'lost') return has(wrong, wanted.arm) && has(right, 'text');
    return true;
  }

  /** Failures of the arm come first, then the worst scores of the audio. */
  function rank({ wrong, badness }, arm) {
    return has(wrong, arm) ? 2 : Number(badness);
  }

  function update() {
    const wanted = Object.fromEntries(new FormData(form));
    let order = cases;
    if (wanted.failures) {
      const by = (element) => rank(element.dataset, wanted.arm);
      order = [...cases].sort((a, b) => by(b) - by(a));
    }
    let count = 0;
    for (const element of order) {
      element.hidden = !matches(element.dataset, wanted);
      if (element.hidden) for (const a of element.querySelectorAll('audio')) a.pause();
      else count += 1;
    }
    if (order.some((element, i) => element !== list.children[i])) {
      list.replaceChildren(...order);
    }
    shown.textContent = `${count} of ${cases.length} examples`;
  }

  // One at a time.
  list.addEventListener('play', ({ target }) => {
    for (const audio of list.querySelectorAll('audio')) {
      if (audio !== target) audio.pause();
    }
  }, true);
  form.addEventListener('change', update);
  form.addEventListener('submit', (event) => event.preventDefault());
  form.hidden = false;
  update();
})();
