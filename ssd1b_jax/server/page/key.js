// The key that a server may want: from the address, which a notebook gives, or from whoever is asked.

import * as api from "./api.js";
import { $, show } from "./dom.js";
import { t } from "./text.js";

let asked = 0;

/** What the server has; asks for a key where it wants one. */
export async function described() {
  take();
  for (;;) {
    try {
      return await api.settings();
    } catch (error) {
      if (error.status !== 401) throw error;
      await askForKey();
    }
  }
}

function askForKey() {
  const dialog = $("key-dialog");
  show($("key-error"), asked++ ? t("key.wrong") : null);
  dialog.oncancel = (event) => event.preventDefault();
  dialog.showModal();
  return new Promise((resolve) => {
    $("key-form").onsubmit = () => { api.useKey($("key").value); resolve(); };
  });
}

/** Take the key out of the address, where links and histories would keep it. */
function take() {
  const values = new URLSearchParams(location.hash.slice(1));
  const key = values.get("key");
  if (key === null) return;
  api.useKey(key);
  values.delete("key");
  history.replaceState(null, "", `#${values}`);
}
