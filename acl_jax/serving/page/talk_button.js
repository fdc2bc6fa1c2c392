// SPDX-License-Identifier: Apache-2.0
// The big button: hold it (or the space bar) and speak, or tap once to start and once
// to send. A screen reader's click counts as a tap.

const TAP_MS = 350;

export class TalkButton {
  /** `start` resolves to whether a recording runs; `stop` sends it, `cancel` drops it. */
  constructor(button, { start, stop, cancel }) {
    Object.assign(this, { button, start, stop, cancel });
    this.pressedAt = null; // while held
    this.recording = false;
    this.latched = false; // started by a tap
    button.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      // The release counts wherever the finger is by then.
      button.setPointerCapture(event.pointerId);
      this.press();
    });
    button.addEventListener('pointerup', () => this.release());
    button.addEventListener('pointercancel', () => this.abandon());
    button.addEventListener('contextmenu', (event) => event.preventDefault());
    button.addEventListener('click', ({ detail }) => {
      // Pointers were handled above; a click without one comes from assistive technology.
      if (detail === 0 && !this.keyed) this.tap();
      this.keyed = false;
    });
    document.addEventListener('keydown', (event) => this.keyDown(event));
    document.addEventListener('keyup', (event) => this.keyUp(event));
    window.addEventListener('blur', () => this.pressedAt && this.release());
  }

  keyDown(event) {
    if (event.key === 'Escape' && this.recording) this.abandon();
    if (!this.isTalkKey(event)) return;
    event.preventDefault();
    if (event.repeat) return;
    this.keyed = true;
    this.press();
  }

  keyUp(event) {
    if (!this.isTalkKey(event)) return;
    event.preventDefault();
    this.release();
    this.keyed = false;
  }

  /** Space everywhere but where it means something else; Enter on the button. */
  isTalkKey({ key, target, ctrlKey, altKey, metaKey }) {
    if (ctrlKey || altKey || metaKey) return false;
    if (target === this.button) return key === ' ' || key === 'Enter';
    const isControl = target.closest?.('button, input, textarea, select, a, dialog');
    return key === ' ' && !isControl;
  }

  async press() {
    if (this.pressedAt) return;
    this.pressedAt = performance.now();
    if (this.latched) return;
    this.recording = await this.start();
    // Released while the browser still asked for permission: nothing was recorded.
    if (this.recording && !this.pressedAt && !this.latched) this.abandon();
  }

  release() {
    if (!this.pressedAt) return;
    const isTap = performance.now() - this.pressedAt < TAP_MS;
    this.pressedAt = null;
    if (isTap && !this.latched) this.latched = true;
    else if (this.recording) this.finish();
    else this.latched = false;
  }

  async tap() {
    if (this.recording) return this.finish();
    this.latched = true;
    this.recording = await this.start();
    this.latched = this.recording;
  }

  finish() {
    this.recording = this.latched = false;
    this.stop();
  }

  abandon() {
    this.pressedAt = null;
    const { recording } = this;
    this.recording = this.latched = false;
    if (recording) this.cancel();
  }
}
