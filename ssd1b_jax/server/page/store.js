// Pictures that were made here, kept in this browser by IndexedDB; without it, for as long as the page is open.

const DATABASE = "ssd1b";
const PICTURES = "pictures";

let opened = null;

function open() {
  opened ??= new Promise((resolve) => {
    try {
      const asked = indexedDB.open(DATABASE, 1);
      asked.onupgradeneeded = () => asked.result.createObjectStore(PICTURES, { keyPath: "id" });
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

async function run(mode, work) {
  const database = await open();
  if (!database) return [];
  return new Promise((resolve) => {
    const transaction = database.transaction(PICTURES, mode);
    const asked = work(transaction.objectStore(PICTURES));
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = transaction.onabort = () => resolve([]); // full, say: the page still has it
  });
}

export const all = () => run("readonly", (store) => store.getAll());
export const put = (picture) => run("readwrite", (store) => store.put(picture));
export const remove = (id) => run("readwrite", (store) => store.delete(id));
export const clear = () => run("readwrite", (store) => store.clear());
