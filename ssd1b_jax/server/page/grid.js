// A table of two settings: one picture for every pair of values.

import * as api from "./api.js";
import { $, el, show } from "./dom.js";
import { body, follow } from "./jobs.js";
import { drawSeed, isSeed, typeOf } from "./state.js";
import { put } from "./stage.js";
import { t, translate } from "./text.js";
import { draw } from "./sheet.js";

const AT_ONCE = 4; // jobs in the queue
const MOST = 64;
const FIRST = [["strength", "0.5, 0.7, 0.9"], ["guidance_scale", "1.5, 4, 8"]];
const USUAL = { // values to begin with
  strength: "0.5, 0.7, 0.9", guidance_scale: "1.5, 4, 8", num_inference_steps: "8, 15, 30", seed: "1..3",
  scheduler: "euler, dpmpp_2m, unipc",
};

/** What stands for true and false where values are written, as everywhere else. */
export const SWITCHES = { true: true, yes: true, on: true, 1: true, false: false, no: false, off: false, 0: false };

export class GridDialog {
  #run = 0;
  #cells = [];

  constructor(parts) {
    Object.assign(this, parts);
    $("open-grid").addEventListener("click", () => this.open());
    $("grid-dialog").addEventListener("close", () => this.#stop());
    $("grid-form").addEventListener("submit", (event) => { event.preventDefault(); this.make(); });
    $("grid-download").addEventListener("click", () => this.#download());
  }

  open() {
    if (!this.axes) this.#build();
    translate($("grid-axes"));
    this.#count();
    $("grid-dialog").showModal();
  }

  #build() {
    const { properties } = this.settings;
    const names = Object.keys(properties).filter((name) => this.settings.knows(name) && isAxis(properties[name]));
    this.axes = ["x", "y"].map((axis, index) => {
      const select = el("select", { id: `grid-${axis}` },
        ...names.map((name) => el("option", { value: name, t: `setting.${name}`, "data-t-else": properties[name].title })));
      const field = el("input", { id: `grid-${axis}-values`, type: "text", autocomplete: "off" });
      [select.value, field.value] = FIRST[index];
      select.addEventListener("change", () => { field.value = this.#usual(select.value); this.#count(); });
      field.addEventListener("input", () => this.#count());
      $("grid-axes").append(
        el("label", {}, el("span", { t: `grid.${axis}` }), select),
        el("label", {}, el("span", { t: "grid.values" }), field),
      );
      return { select, field };
    });
  }

  #usual(name) {
    if (name in USUAL) return USUAL[name];
    const { enum: words, maximum } = this.settings.properties[name];
    if (words) return words.filter(Boolean).slice(0, 3).join(", ");
    if (typeOf(this.settings.properties[name]) === "boolean") return "true, false";
    return maximum === 1 ? "0, 0.5, 1" : name === "prompt" ? (this.settings.get("prompt") ?? "") : "1, 2, 3";
  }

  #values() {
    return this.axes.map(({ select, field }) => values(field.value, select.value, this.settings.properties[select.value]));
  }

  #count() {
    const [across, down] = this.#values();
    $("grid-make").textContent = t("grid.make", { n: across.length * down.length });
    $("grid-make").disabled = across.length * down.length === 0 || across.length * down.length > MOST;
  }

  async make() {
    const [x, y] = this.axes.map(({ select }) => select.value);
    const [across, down] = this.#values();
    const run = ++this.#run;
    show($("grid-error"), null);
    const files = await this.board.files();
    const { num_images: _, ...settings } = { prompt: "", seed: drawSeed(), ...this.settings.asked() };
    this.#cells = down.map((lower) => across.map((upper) => ({ settings: { ...settings, [y]: lower, [x]: upper }, item: null })));
    this.#lay(x, y, across, down);
    const waiting = this.#cells.flat();
    const total = waiting.length;
    const work = async () => {
      while (waiting.length && run === this.#run) {
        await this.#fill(waiting.shift(), files, run);
        const done = this.#cells.flat().filter((cell) => cell.item).length;
        $("grid-status").textContent = t("grid.progress", { done, n: total });
      }
    };
    try {
      await Promise.all(Array.from({ length: AT_ONCE }, work));
    } catch (error) {
      this.#run += 1;
      show($("grid-error"), error instanceof api.Refused ? error.message : t("offline"));
    }
    $("grid-download").hidden = !this.#cells.flat().every((cell) => cell.item);
  }

  async #fill(cell, files, run) {
    const job = await api.submit({ ...(await body(cell.settings, files)), priority: "batch" });
    cell.job = job.id;
    if (run !== this.#run) api.cancel(job.id);
    await follow(job, { settings: cell.settings, files }, {
      picture: (item) => {
        if (run !== this.#run) return;
        cell.item = item;
        cell.button.disabled = false;
        put(cell.button.firstElementChild, item.file);
      },
    });
  }

  #lay(x, y, across, down) {
    const corner = el("td", { text: `${this.panel.title(y)} ↓  ${this.panel.title(x)} →` });
    const head = el("tr", {}, corner, ...across.map((value) => el("th", { scope: "col", text: String(value) })));
    const rows = down.map((lower, row) => el("tr", {}, el("th", { scope: "row", text: String(lower) }),
      ...across.map((upper, column) => {
        const cell = this.#cells[row][column];
        cell.button = el("button", { type: "button", disabled: true }, el("img", { alt: "" }));
        cell.button.setAttribute("aria-label", t("grid.cell", { x: upper, y: lower }));
        cell.button.addEventListener("click", () => this.#take(cell.item));
        return el("td", {}, cell.button);
      })));
    this.labels = { x: this.panel.title(x), y: this.panel.title(y), across, down };
    $("grid-table").replaceChildren(el("table", {}, head, ...rows));
    $("grid-table").hidden = false;
    $("grid-download").hidden = true;
  }

  #take(item) {
    this.gallery.add(item);
    this.stage.show(item);
    $("grid-dialog").close();
  }

  #stop() {
    this.#run += 1;
    for (const { job, item } of this.#cells.flat()) if (job && !item) api.cancel(job);
  }

  async #download() {
    const file = await draw(this.#cells.map((row) => row.map((cell) => cell.item.file)), this.labels);
    const link = el("a", { href: URL.createObjectURL(file), download: "grid.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

const isAxis = (property) => ["number", "integer", "string", "boolean"].includes(typeOf(property));

/** The values that someone wrote: parts between commas, and whole numbers counted by "..". */
export function values(text, name, property) {
  const parts = text.split(",").map((part) => part.trim()).filter(Boolean);
  return parts.flatMap((part) => {
    const [, from, to] = /^(\d+)\.\.(\d+)$/.exec(part) ?? [];
    if (from !== undefined) {
      const count = Math.min(MOST + 1, Math.max(0, to - from + 1));
      return Array.from({ length: count }, (_, index) => valueOf(String(Number(from) + index), name, property));
    }
    return [valueOf(part, name, property)];
  });
}

function valueOf(text, name, property) {
  const type = typeOf(property);
  if (type === "string" || isSeed(name)) return text;
  if (type === "boolean") return SWITCHES[text.toLowerCase()] ?? text;
  return Number.isFinite(Number(text)) ? Number(text) : text;
}
