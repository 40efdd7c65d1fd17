// What can be done with a picture that is shown.

import * as api from "./api.js";
import { $, toast } from "./dom.js";
import { drawSeed } from "./state.js";
import { t } from "./text.js";

export class Actions {
  constructor({ settings, board, stage, panel, gallery, runner }) {
    Object.assign(this, { settings, board, stage, panel, gallery, runner });
    const actions = {
      again: (item) => this.#again(item),
      use: (item) => board.load(item.file),
      copy: (item) => this.#copy(item),
      download: (item) => this.#download(item),
      replay: (item) => this.#replay(item),
      remove: (item) => gallery.remove(item),
      "facts-use": (item) => this.#restore(item),
    };
    for (const [id, act] of Object.entries(actions)) {
      $(id).addEventListener("click", () => { if (stage.item) act(stage.item); });
    }
  }

  async #restore(item) {
    this.settings.replace(item.settings);
    await this.board.load(item.image, item.mask);
  }

  async #again(item) {
    await this.#restore(item);
    this.settings.set("seed", drawSeed());
    this.runner.generate();
  }

  async #copy(item) {
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": await inPng(item.file) })]);
      toast(t("copied"));
    } catch {
      toast(t("copy.failed"));
    }
  }

  #download(item) {
    const words = (item.settings.prompt ?? "").toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 40).replace(/^-|-$/g, "");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(item.file);
    link.download = `${words || "picture"}-${item.settings.seed}.${item.file.type.split("/")[1]}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  async #replay(item) {
    this.stage.status(t("replay.running"));
    try {
      const { identical, differences } = await api.replay(item.file, item.image, item.mask);
      this.stage.status(identical ? t("replay.same") : t("replay.other", { differences: differences.join("; ") }));
    } catch (error) {
      this.stage.status("");
      this.panel.refuse({ message: error instanceof api.Refused ? error.message : t("offline"), field: null });
    }
  }
}

async function inPng(file) {
  if (file.type === "image/png") return file;
  const bitmap = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
