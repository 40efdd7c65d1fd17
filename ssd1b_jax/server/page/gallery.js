// The pictures that were made here, newest first; they survive a reload.

import { $, el, toast } from "./dom.js";
import { put } from "./stage.js";
import * as store from "./store.js";
import { label, t } from "./text.js";

const MOST = 200;

export class Gallery {
  #items = [];

  constructor(stage) {
    this.stage = stage;
    stage.addEventListener("shown", () => this.#mark());
    $("gallery-clear").addEventListener("click", () => this.clear());
  }

  get newest() {
    return this.#items[0] ?? null;
  }

  async load() {
    const kept = await store.all();
    this.#items = [...this.#items, ...kept.sort((a, b) => (a.id < b.id ? 1 : -1))];
    this.show();
  }

  add(item) {
    if (this.#items.includes(item)) return;
    this.#items.unshift(item);
    store.put(item);
    for (const old of this.#items.splice(MOST)) store.remove(old.id);
    $("pictures").prepend(this.#entry(item));
    this.#mark();
  }

  /** The picture that a file is, to the byte; null for none. */
  async find(file) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    for (const item of this.#items.filter((each) => each.file.size === file.size)) {
      const own = new Uint8Array(await item.file.arrayBuffer());
      if (own.every((byte, at) => byte === bytes[at])) return item;
    }
    return null;
  }

  remove(item) {
    const at = this.#items.indexOf(item);
    if (at >= 0) this.#items.splice(at, 1);
    store.remove(item.id);
    this.show();
    if (this.newest) this.stage.show(this.#items[Math.min(at, this.#items.length - 1)] ?? this.newest);
    else this.stage.clear();
  }

  clear() {
    const gone = this.#items;
    this.#items = [];
    store.clear();
    store.clearBoard();
    this.show();
    this.stage.clear();
    toast(t("gallery.cleared", { n: gone.length }), t("bring.back"), () => {
      this.#items = [...this.#items, ...gone];
      gone.forEach(store.put);
      this.show();
    });
  }

  show() {
    $("pictures").replaceChildren(...this.#items.map((item) => this.#entry(item)));
    this.#mark();
  }

  #entry(item) {
    const image = el("img", { alt: "", loading: "lazy" });
    put(image, item.file);
    const button = el("button", { type: "button" }, image);
    label(button, t("gallery.open", { prompt: item.settings.prompt ?? "", seed: item.settings.seed }));
    button.addEventListener("click", () => this.stage.show(item));
    const entry = el("li", {}, button);
    entry.item = item;
    return entry;
  }

  #mark() {
    for (const entry of $("pictures").children) {
      entry.firstElementChild.setAttribute("aria-pressed", String(entry.item === this.stage.item));
    }
    $("gallery-none").hidden = this.#items.length > 0;
    $("gallery-clear").hidden = this.#items.length === 0;
  }
}
