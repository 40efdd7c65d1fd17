// The tools beside the board: which one is at hand, its colour and size, and the mask's own settings.

import { Brush } from "./brush.js";
import { $, el, isWriting } from "./dom.js";
import { translate } from "./text.js";

const COLORS = ["#1f1d1b", "#8c8c8c", "#ffffff", "#dd2e30", "#f5872a", "#fdd344", "#3fa34d", "#3f7fd9", "#7a4fd0", "#f07fb2",
  "#8a5a3a", "#f2c197"];
const KEYS = { b: "brush", e: "eraser", f: "fill", m: "mask" };

export class Tools {
  #hand = { tool: "brush", color: COLORS[0], size: 18, isErasing: false };

  constructor(board, settings) {
    this.board = board;
    this.settings = settings;
    this.brush = new Brush($("board"), board, $("cursor"), () => this.#hand);
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.addEventListener("click", () => this.take(button.dataset.tool));
    }
    for (const button of document.querySelectorAll("[data-fit]")) {
      button.addEventListener("click", () => settings.set("resize_mode", button.dataset.fit));
    }
    $("brush-size").addEventListener("input", (event) => { this.#hand.size = Number(event.target.value); });
    $("undo").addEventListener("click", board.undo);
    $("redo").addEventListener("click", board.redo);
    $("clear").addEventListener("click", () => board.clear());
    $("unmask").addEventListener("click", () => { this.#hand.isErasing = !this.#hand.isErasing; this.#show(); });
    $("mask-clear").addEventListener("click", () => board.clearMask());
    $("mask-invert").addEventListener("change", (event) => settings.set("mask_invert", event.target.checked));
    $("mask-blur").addEventListener("input", (event) => settings.set("mask_blur", Number(event.target.value), { moving: true }));
    this.#fillPalette();
    board.addEventListener("change", ({ detail }) => {
      if (detail.moving) $("mask-help").hidden = true;
      else this.#show();
    });
    settings.addEventListener("change", () => this.#show());
    document.addEventListener("keydown", (event) => this.#press(event));
    this.take("brush");
  }

  take(tool) {
    this.#hand.tool = tool;
    if (tool !== "mask") this.#hand.isErasing = false;
    this.#show();
  }

  #fillPalette() {
    const swatches = COLORS.map((color, index) => {
      const button = el("button", { type: "button", class: "swatch", "data-color": color, label: `color.${index + 1}` });
      button.style.backgroundColor = color;
      button.addEventListener("click", () => this.#dip(color));
      return button;
    });
    const own = el("input", { type: "color", id: "color-own", value: "#00a0a0", label: "color.own" });
    own.addEventListener("input", () => this.#dip(own.value));
    $("palette").replaceChildren(...swatches, own);
    translate($("palette"));
  }

  #dip(color) {
    this.#hand.color = color;
    if (["eraser", "mask"].includes(this.#hand.tool)) this.#hand.tool = "brush";
    this.#show();
  }

  #show() {
    const { tool, color, isErasing } = this.#hand;
    const { board, settings } = this;
    const press = (node, isOn) => node.setAttribute("aria-pressed", String(isOn));
    for (const button of document.querySelectorAll("[data-tool]")) press(button, button.dataset.tool === tool);
    for (const button of document.querySelectorAll("[data-color]")) press(button, button.dataset.color === color);
    for (const button of document.querySelectorAll("[data-fit]")) press(button, button.dataset.fit === settings.get("resize_mode"));
    press($("unmask"), isErasing);
    $("palette").hidden = tool === "mask";
    $("mask-tools").hidden = tool !== "mask";
    $("mask-help").hidden = tool !== "mask" || board.hasMask;
    $("fit").hidden = !board.isFitted;
        $("undo").disabled = !board.canUndo;
    $("redo").disabled = !board.canRedo;
    $("mask-clear").disabled = !board.hasMask;
    $("mask-invert").checked = settings.get("mask_invert");
    $("mask-blur").value = settings.get("mask_blur");
    board.invert(settings.get("mask_invert") === true);
    if (board.mode !== settings.get("resize_mode")) board.refit(settings.get("resize_mode"));
    const blur = (settings.get("mask_blur") * $("overlay").clientWidth) / (settings.get("width") || 64);
    $("overlay").style.filter = blur ? `blur(${blur / 3}px)` : "";
  }

  #press(event) {
    if (event.altKey || isWriting(event.target) || document.querySelector("dialog[open]")) return;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") event.shiftKey ? this.board.redo() : this.board.undo();
      else if (key === "y") this.board.redo();
      else return;
      event.preventDefault();
    } else if (key in KEYS) {
      this.take(KEYS[key]);
    }
  }
}
