// SPDX-License-Identifier: Apache-2.0
// Which conversation is open, and the list of all that this browser keeps.

import { ConversationList } from './conversations.js';

const get = (id) => document.getElementById(id);

export class Archive {
  /** `onLeave` is called before another conversation is shown. */
  constructor(session, storage, view, onLeave) {
    Object.assign(this, { session, storage, view, onLeave });
    this.list = new ConversationList({
      drawer: get('drawer'),
      menu: get('menu'),
      shade: get('shade'),
      list: get('conversations'),
      template: get('conversation-template'),
      onOpen: (conversation) => this.open(conversation),
      onDelete: (conversation) => this.confirmDelete(conversation),
    });
    session.addEventListener('saved', () => this.show());
  }

  async openLatest() {
    const [latest] = await this.storage.list();
    if (latest) this.open(latest);
    else this.begin();
  }

  begin() {
    this.list.toggle(false);
    this.open({
      id: `${Date.now()}-${crypto.getRandomValues(new Uint32Array(1))[0]}`,
      title: '',
      updated: Date.now(),
      turns: [],
    });
  }

  open(conversation) {
    this.onLeave();
    this.view.clear();
    for (const turn of conversation.turns) {
      turn.live = false;
      if (turn.status === 'streaming') turn.status = 'failed';
    }
    this.session.open(conversation);
    for (const turn of conversation.turns) this.view.show(turn);
    this.view.scrollToEnd();
    this.show();
  }

  confirmDelete({ id }) {
    const dialog = get('confirm');
    dialog.returnValue = 'keep';
    dialog.showModal();
    dialog.onclose = async () => {
      if (dialog.returnValue !== 'delete') return;
      const isOpen = id === this.session.conversation.id;
      if (isOpen) this.begin(); // before, so that nothing saves it again
      await this.storage.delete(id);
      this.show();
      get('new').focus();
    };
  }

  async show() {
    const { id, title } = this.session.conversation;
    get('title').textContent = title || 'Talk';
    document.title = title ? `${title} · Talk` : 'Talk';
    this.list.show(await this.storage.list(), id);
    if (this.storage.lasting) return;
    get('kept').textContent = 'This browser keeps nothing: closing the page forgets it.';
  }
}
