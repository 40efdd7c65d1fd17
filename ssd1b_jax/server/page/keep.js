// What is on the board survives a reload, with the settings.

import * as store from "./store.js";

const REST_MS = 500; // without a change, before it is kept

/** Keep the board and the settings, whenever they have rested. */
export function keep(board, settings) {
  let timer;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(async () => store.putBoard({ ...(await board.files()), address: settings.address() }), REST_MS);
  };
  board.addEventListener("change", later);
  settings.addEventListener("change", later);
}

/** Put back what was kept; gives the settings as an address, or null where nothing was. */
export async function recall(board) {
  const kept = await store.board();
  if (!kept) return null;
  try {
    await board.load(kept.image, kept.mask);
  } catch {
    return null;
  }
  return kept.address;
}
