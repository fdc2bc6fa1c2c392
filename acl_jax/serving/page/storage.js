// SPDX-License-Identifier: Apache-2.0
// Conversations and their sound, in this browser only (IndexedDB).

const NAME = 'talk';

function request(made) {
  return new Promise((resolve, reject) => {
    made.onsuccess = () => resolve(made.result);
    made.onerror = () => reject(made.error);
  });
}

function open() {
  const opening = indexedDB.open(NAME, 1);
  opening.onupgradeneeded = () => {
    opening.result.createObjectStore('conversations', { keyPath: 'id' });
    opening.result.createObjectStore('sounds'); // [conversation, turn] -> int16
  };
  return request(opening);
}

/** Without IndexedDB (some private windows) it remembers until the page is closed. */
export class Storage {
  constructor() {
    this.memory = { conversations: new Map(), sounds: new Map() };
    this.lasting = true;
    this.database = open().catch(() => {
      this.lasting = false;
      return null;
    });
  }

  async store(name, mode) {
    const database = await this.database;
    return database?.transaction(name, mode).objectStore(name);
  }

  /** All conversations, the latest first. */
  async list() {
    const store = await this.store('conversations', 'readonly');
    const all = store
      ? await request(store.getAll())
      : [...this.memory.conversations.values()];
    return all.sort((a, b) => b.updated - a.updated);
  }

  async save(conversation) {
    const store = await this.store('conversations', 'readwrite');
    if (store) await request(store.put(conversation));
    else this.memory.conversations.set(conversation.id, conversation);
  }

  async saveSound(conversation, turn, pcm) {
    const store = await this.store('sounds', 'readwrite');
    if (store) await request(store.put(pcm, [conversation, turn]));
    else this.memory.sounds.set(`${conversation} ${turn}`, pcm);
  }

  /** The int16 samples of a turn, or undefined. */
  async sound(conversation, turn) {
    const store = await this.store('sounds', 'readonly');
    if (store) return request(store.get([conversation, turn]));
    return this.memory.sounds.get(`${conversation} ${turn}`);
  }

  async delete(conversation) {
    const sounds = await this.store('sounds', 'readwrite');
    // An array is greater than every string, so this spans all turns.
    const turns = IDBKeyRange.bound([conversation], [conversation, []]);
    if (sounds) await request(sounds.delete(turns));
    const store = await this.store('conversations', 'readwrite');
    if (store) await request(store.delete(conversation));
    this.memory.conversations.delete(conversation);
  }
}
