// SPDX-License-Identifier: Apache-2.0
// The list of conversations at the side; on a narrow screen it is a drawer.

const WIDE = matchMedia('(min-width: 56rem)');
const DAY_MS = 24 * 3600 * 1000;

export class ConversationList {
  /** Calls `onOpen` with a conversation and `onDelete` with one to be deleted. */
  constructor({ drawer, menu, shade, list, template, onOpen, onDelete }) {
    Object.assign(this, { drawer, menu, shade, list, template, onOpen, onDelete });
    menu.addEventListener('click', () => this.toggle(!this.isOpen));
    shade.addEventListener('click', () => this.toggle(false));
    drawer.addEventListener('keydown', ({ key }) => {
      if (key === 'Escape' && this.isOpen) this.toggle(false);
    });
    WIDE.addEventListener('change', () => this.toggle(false));
    this.toggle(false);
  }

  get isOpen() {
    return this.drawer.classList.contains('open');
  }

  toggle(open) {
    const { drawer, menu, shade } = this;
    const wasOpen = this.isOpen;
    drawer.classList.toggle('open', open);
    drawer.inert = !open && !WIDE.matches;
    shade.hidden = !open;
    menu.setAttribute('aria-expanded', open);
    if (open) drawer.querySelector('button').focus();
    else if (wasOpen) menu.focus();
  }

  show(conversations, current) {
    const version = JSON.stringify([current, conversations.map((c) => [c.id, c.title])]);
    if (version === this.version) return; // what has the focus stays
    this.version = version;
    const items = conversations.map((conversation) => {
      const item = this.template.content.cloneNode(true).querySelector('li');
      const [open, remove] = item.querySelectorAll('button');
      const title = conversation.title || 'New conversation';
      open.querySelector('.name').textContent = title;
      open.querySelector('.when').textContent = when(conversation.updated);
      if (conversation.id === current) open.setAttribute('aria-current', 'true');
      open.addEventListener('click', () => {
        this.toggle(false);
        this.onOpen(conversation);
      });
      remove.setAttribute('aria-label', `Delete “${title}”`);
      remove.addEventListener('click', () => this.onDelete(conversation));
      return item;
    });
    this.list.replaceChildren(...items);
  }
}

function when(time) {
  const date = new Date(time);
  const isRecent = Date.now() - time < DAY_MS;
  return isRecent
    ? date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })
    : date.toLocaleDateString([], { day: 'numeric', month: 'short' });
}
