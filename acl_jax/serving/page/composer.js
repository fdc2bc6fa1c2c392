// SPDX-License-Identifier: Apache-2.0
// The text box, and audio files that are chosen, dropped or pasted.

import { clock, decodeFile, RATE } from './sound.js';

export class Composer {
  /** `onSend` receives {text, pcm, name}; `onError` a sentence. */
  constructor({ form, message, file, attach, attachment, drop, onSend, onError }) {
    Object.assign(this, { message, file, attachment, drop, onSend, onError });
    this.attached = null; // {name, pcm}
    form.addEventListener('submit', (event) => this.submit(event));
    message.addEventListener('keydown', (event) => {
      const sends = event.key === 'Enter' && !event.shiftKey && !event.isComposing;
      if (sends) this.submit(event);
    });
    message.addEventListener('input', () => this.fit());
    attach.addEventListener('click', () => file.click());
    file.addEventListener('change', () => this.attachFile(file.files[0]));
    attachment.querySelector('button').addEventListener('click', () => {
      this.detach();
      message.focus();
    });
    this.acceptDrops();
  }

  acceptDrops() {
    const { drop } = this;
    const carriesFiles = ({ dataTransfer }) => dataTransfer?.types.includes('Files');
    window.addEventListener('dragover', (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      drop.hidden = false;
    });
    window.addEventListener('dragleave', ({ relatedTarget }) => {
      if (!relatedTarget) drop.hidden = true;
    });
    window.addEventListener('drop', (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      drop.hidden = true;
      this.attachFile(event.dataTransfer.files[0]);
    });
    window.addEventListener('paste', ({ clipboardData }) => {
      if (clipboardData.files.length) this.attachFile(clipboardData.files[0]);
    });
  }

  async attachFile(file) {
    this.file.value = '';
    if (!file) return;
    try {
      const pcm = await decodeFile(file);
      if (!pcm.length) throw new Error(`${file.name} has no sound in it.`);
      this.attached = { name: file.name, pcm };
    } catch (error) {
      this.onError(error.message);
      return;
    }
    const seconds = this.attached.pcm.length / RATE;
    const label = `${file.name}, ${clock(seconds)}`;
    this.attachment.querySelector('span').textContent = label;
    this.attachment.hidden = false;
    this.message.focus();
  }

  detach() {
    this.attached = null;
    this.attachment.hidden = true;
  }

  submit(event) {
    event.preventDefault();
    const text = this.message.value.trim();
    if (!text && !this.attached) return;
    const sent = { text, ...this.attached };
    this.message.value = '';
    this.detach();
    this.fit();
    this.onSend(sent);
  }

  /** The box grows with its text, as far as the style allows. */
  fit() {
    const { message } = this;
    message.style.height = 'auto';
    message.style.height = `${message.scrollHeight}px`;
  }
}
