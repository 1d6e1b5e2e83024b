// Keeps the pictures of the draft in this browser's database, so that they survive a reload as the other fields do: the
// storage of texts is too small for them. Where the browser forbids it, they last until the page is closed.

const STORE = "pictures";

const opening = new Promise((resolve, reject) => {
  const asked = indexedDB.open("wanworks", 1);
  asked.onupgradeneeded = () => asked.result.createObjectStore(STORE);
  settle(asked, resolve, reject);
});
opening.catch(() => {}); // each use says it again

function settle(asked, resolve, reject) {
  asked.onsuccess = () => resolve(asked.result);
  asked.onerror = () => reject(asked.error);
}

async function use(mode, act) {
  const database = await opening;
  return new Promise((resolve, reject) => settle(act(database.transaction(STORE, mode).objectStore(STORE)), resolve, reject));
}

/** Keeps a picture, a file, by the name of its field; null: there is none any more. */
export const keep = (name, file) => use("readwrite", (store) => (file ? store.put(file, name) : store.delete(name))).catch(() => {});

/** Resolves to the picture that was kept; to null if there is none. */
export const read = (name) => use("readonly", (store) => store.get(name)).catch(() => null);
