// Where a picture appears: while it is made, when it is done, and against what it was.

import { $, el } from "./dom.js";
import { isSeed } from "./state.js";
import { number, seconds, t } from "./text.js";

const FITS = { crop: "cover", fit: "cover", pad: "contain", stretch: "fill" };

/** Put a file into an <img>, and let go of the one before. Resolves when it is on the screen. */
export async function put(image, file) {
  const before = image.dataset.url;
  image.dataset.url = URL.createObjectURL(file);
  image.src = image.dataset.url;
  await image.decode().catch(() => null);
  if (before) URL.revokeObjectURL(before);
}

/** Tells "shown" when another picture is shown. */
export class Stage extends EventTarget {
  item = null;

  constructor(panel) {
    super();
    this.panel = panel;
    $("divider").addEventListener("input", () => this.#divide());
    $("compare").addEventListener("click", () => this.compare(!this.isComparing));
    $("facts").addEventListener("toggle", () => { if ($("facts").open && this.item) this.#list(); });
    offer(false);
  }

  get isComparing() {
    return $("compare").getAttribute("aria-pressed") === "true";
  }

  /** Show a picture that is done, with its actions and its settings. */
  async show(item) {
    this.item = item;
    this.preview(null);
    const image = $("after");
    image.alt = t("made", { prompt: item.settings.prompt ?? "", seed: item.settings.seed });
    await put(image, item.file);
    if (this.item !== item) return;
    this.#reveal(true);
    if (this.isComparing) this.compare(true);
    if ($("facts").open) this.#list();
    this.dispatchEvent(new Event("shown"));
  }

  clear() {
    this.item = null;
    this.#reveal(false);
    this.dispatchEvent(new Event("shown"));
  }

  #reveal(isShown) {
    $("after").hidden = !isShown;
    $("empty").hidden = isShown;
    offer(isShown);
    if (!isShown) this.compare(false);
    this.#divide();
  }

  /** An address to show while the picture is made; null for the end of it. */
  preview(address) {
    $("stage").classList.toggle("preview", address !== null);
    if (address === null) return;
    this.compare(false);
    this.item = null;
    offer(false);
    $("after").src = address;
    $("after").alt = t("preview");
    $("after").hidden = false;
    $("empty").hidden = true;
  }

  /** A fraction, or null for no progress. */
  progress(fraction) {
    $("progress").hidden = fraction === null;
    $("progress").value = fraction ?? 0;
  }

  /** Say what goes on; `isQuiet` keeps screen readers from reading every step out. */
  status(text, { isQuiet = false } = {}) {
    $("status").setAttribute("aria-live", isQuiet ? "off" : "polite");
    $("status").textContent = text;
  }

  compare(isOn) {
    $("compare").setAttribute("aria-pressed", String(isOn));
    $("divider").hidden = $("before").hidden = !isOn;
    if (isOn) {
      put($("before"), this.item.image);
      $("before").style.objectFit = FITS[this.item.settings.resize_mode ?? "crop"];
    }
    this.#divide();
  }

  #divide() {
    const { value } = $("divider");
    $("before").style.clipPath = `inset(0 ${100 - value}% 0 0)`;
    $("stage").style.setProperty("--divide", `${value}%`);
  }

  #list() {
    const { settings, width, height, seconds: took, notes } = this.item;
    const { prompt, ...others } = settings;
    const rows = [
      [this.panel.title("prompt"), prompt],
      ...Object.entries(others).map(([name, value]) => [this.panel.title(name), spelled(name, value)]),
      ["", `${width} × ${height}, ${seconds(took)} s`],
      ...notes.map((note) => ["", note]),
    ];
    $("facts").querySelector("dl").replaceChildren(
      ...rows.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value ?? "" })]),
    );
  }
}

/** What can be done with a picture; the row keeps its height while there is none. */
function offer(isShown) {
  for (const button of $("actions").children) button.hidden = !isShown;
  $("tray").hidden = $("facts").hidden = !isShown;
}

function spelled(name, value) {
  if (typeof value === "number" && !isSeed(name)) return number(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
