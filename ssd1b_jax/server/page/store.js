// Pictures that were made here, and what is on the board, kept in this browser by IndexedDB; without it, for as long as
// the page is open.

const DATABASE = "ssd1b";
const PICTURES = "pictures";
const BOARDS = "boards"; // has one
const THE_BOARD = "board";

let opened = null;

function open() {
  opened ??= new Promise((resolve) => {
    try {
      const asked = indexedDB.open(DATABASE, 1);
      asked.onupgradeneeded = () => [PICTURES, BOARDS].forEach((name) => asked.result.createObjectStore(name, { keyPath: "id" }));
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

async function run(name, mode, work) {
  const database = await open();
  if (!database) return undefined;
  return new Promise((resolve) => {
    const transaction = database.transaction(name, mode);
    const asked = work(transaction.objectStore(name));
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = transaction.onabort = () => resolve(undefined); // full, say: the page still has it
  });
}

export const all = async () => (await run(PICTURES, "readonly", (store) => store.getAll())) ?? [];
export const put = (picture) => run(PICTURES, "readwrite", (store) => store.put(picture));
export const remove = (id) => run(PICTURES, "readwrite", (store) => store.delete(id));
export const clear = () => run(PICTURES, "readwrite", (store) => store.clear());

/** What was on the board: { image, mask, address }, as files and settings. */
export const board = () => run(BOARDS, "readonly", (store) => store.get(THE_BOARD));
export const putBoard = (kept) => run(BOARDS, "readwrite", (store) => store.put({ id: THE_BOARD, ...kept }));
export const clearBoard = () => run(BOARDS, "readwrite", (store) => store.clear());
