// Every way in for a picture: upload, drop, paste, camera, example. One that brings settings along gets them back.

import * as api from "./api.js";
import { shoot } from "./camera.js";
import { $, el, toast } from "./dom.js";
import { IDEAS } from "./ideas.js";
import { t, translate } from "./text.js";

export class Intake {
  constructor({ settings, board, gallery }) {
    Object.assign(this, { settings, board, gallery });
    $("upload").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", (event) => {
      this.take(event.target.files[0]);
      event.target.value = "";
    });
    $("shoot").addEventListener("click", async () => {
      const file = await shoot();
      if (file) this.#load(file);
    });
    document.addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find(isPicture);
      if (!file) return;
      event.preventDefault();
      this.take(file);
    });
    this.#watchDrops();
  }

  #watchDrops() {
    const mark = (isOver) => document.body.classList.toggle("dropping", isOver);
    document.addEventListener("dragover", (event) => { event.preventDefault(); mark(true); });
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      mark(false);
      if (event.dataTransfer.files.length) this.take(event.dataTransfer.files[0]);
    });
  }

  /** Take a file: its settings where it has some, else the picture. */
  async take(file) {
    if (!file || !(await this.#load(file))) return;
    const before = this.settings.asked();
    const found = await api.records(file).catch(() => null);
    if (!found?.source) return;
    this.settings.replace(found.settings);
    await this.#bringInput(file, found.pictures);
    const sentence = t(found.source === "a1111" ? "recalled.a1111" : "recalled");
    toast([sentence, ...found.notes].join(" "), t("recalled.other"), () => {
      this.settings.replace(before);
      this.#load(file);
    });
  }

  /** The input that a picture was made from, where it is known here or in the picture's file. */
  async #bringInput(file, { image, mask }) {
    const item = await this.gallery.find(file);
    if (item) await this.#load(item.image, item.mask);
    else if (image) await this.#load(api.fromBase64(image), mask && api.fromBase64(mask));
  }

  async #load(file, mask = null) {
    try {
      await this.board.load(file, mask);
      return true;
    } catch {
      toast(t("unreadable"));
      return false;
    }
  }

  /** The drawings to start from. */
  offer(paths) {
    $("examples").replaceChildren(...paths.map((path) => {
      const name = /(\w+)\.png$/.exec(path)[1];
      const image = el("img", { src: `page/${path}`, alt: "", width: "36", height: "36" });
      const button = el("button", { type: "button", label: "example", "data-t-name": `example.${name}`, "data-t-else": name }, image);
      button.addEventListener("click", () => this.start(path, { prompt: IDEAS[name]?.[0] }));
      return button;
    }));
    translate($("examples"));
  }

  /** Begin with an example, and the prompt that goes with it. */
  async start(path, { prompt }) {
    const answer = await fetch(`page/${path}`);
    await this.#load(await answer.blob());
    if (prompt) this.settings.set("prompt", prompt);
    this.suggest(/(\w+)\.png$/.exec(path)[1]);
  }

  /** Prompts that go well with an example. */
  suggest(name) {
    $("ideas").replaceChildren(...(IDEAS[name] ?? []).map((idea) => {
      const button = el("button", { type: "button", text: idea });
      button.addEventListener("click", () => this.settings.set("prompt", idea));
      return button;
    }));
  }
}

const isPicture = (file) => file.type.startsWith("image/");
