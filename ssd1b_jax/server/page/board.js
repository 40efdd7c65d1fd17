// The picture that is drawn on, and the mask over it: layers, history, and what is sent.

import { flood } from "./fill.js";
import { fit } from "./fit.js";

const PAPER = "#ffffff";
const SHORTEST = 512; // pixels of the longer side, at least
const HISTORY = 24;
const LARGEST = 20e6; // pixels of a file that is sent as it came
const STRIPE = 14; // pixels between the mask's stripes

function canvas(width, height) {
  const made = Object.assign(document.createElement("canvas"), { width, height });
  made.getContext("2d", { willReadFrequently: true });
  return made;
}

function copy(of) {
  const made = canvas(of.width, of.height);
  made.getContext("2d").drawImage(of, 0, 0);
  return made;
}

/**
 * Tells "change" with { moving }, while a stroke is drawn and after it. `source` is a file nobody has drawn on; `version`
 * is another number whenever something else is on the board.
 */
export class Board extends EventTarget {
  #past = [];
  #future = [];
  #stripes = null;
  #file = null; // of the picture as it is now, made when it is first sent
  isInverted = false;
  hasMask = false;
  version = 0;
  source = null;
  mode = "crop";

  constructor(picture, overlay) {
    super();
    this.picture = picture;
    this.overlay = overlay;
    this.resize(64, 64);
  }

  /** Take the size of the pictures that are made. */
  resize(width, height) {
    const scale = Math.max(1, Math.ceil(SHORTEST / Math.max(width, height)));
    const [wide, high] = [width * scale, height * scale];
    if (this.picture.width === wide && this.picture.height === high) return;
    const [before, mask] = [copy(this.picture), this.mask];
    for (const layer of [this.picture, this.overlay]) Object.assign(layer, { width: wide, height: high });
    this.ink = this.picture.getContext("2d", { willReadFrequently: true });
    this.mask = canvas(wide, high);
    if (mask) this.mask.getContext("2d").drawImage(mask, 0, 0, wide, high);
    fit(this.ink, this.source?.bitmap ?? before, this.mode);
    this.forget();
  }

  /** Another picture, from a file, and a mask over it. Raises what the browser raises for one that it can't read. */
  async load(file, mask = null) {
    const [bitmap, over] = await Promise.all([createImageBitmap(file), mask && createImageBitmap(mask)]);
    this.remember();
    this.source = { file, bitmap };
    fit(this.ink, bitmap, this.mode);
    this.#eraseMask();
    if (over) this.#layMask(over);
    this.#changed();
  }

  /** Take a mask in black and white: white becomes what is painted. */
  #layMask(over) {
    const { width, height } = this.mask;
    const ink = this.mask.getContext("2d");
    ink.drawImage(over, 0, 0, width, height);
    const image = ink.getImageData(0, 0, width, height);
    for (let at = 0; at < image.data.length; at += 4) image.data[at + 3] = image.data[at];
    ink.putImageData(image, 0, 0);
    this.hasMask = this.#isPainted();
  }

  refit(mode) {
    this.mode = mode;
    if (!this.source) return;
    fit(this.ink, this.source.bitmap, mode);
    this.#changed();
  }

  /** Whether a fit has anything to do: the picture has another shape than the board. */
  get isFitted() {
    if (!this.source) return false;
    const { width, height } = this.source.bitmap;
    return Math.abs(Math.log((width / height) * (this.picture.height / this.picture.width))) > 0.01;
  }

  clear() {
    this.remember();
    this.source = null;
    this.ink.fillStyle = PAPER;
    this.ink.fillRect(0, 0, this.picture.width, this.picture.height);
    this.#eraseMask();
    this.#changed();
  }

  /** One step of history: call before a change. */
  remember() {
    this.#past.push(this.#state());
    if (this.#past.length > HISTORY) this.#past.shift();
    this.#future = [];
  }

  /** What is on the board now is the beginning. */
  forget() {
    this.#past = [];
    this.#future = [];
    this.#changed();
  }

  undo = () => this.#travel(this.#past, this.#future);
  redo = () => this.#travel(this.#future, this.#past);

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  #state = () => ({ picture: copy(this.picture), mask: this.hasMask ? copy(this.mask) : null, source: this.source });

  #travel(from, to) {
    const state = from.pop();
    if (!state) return;
    to.push(this.#state());
    this.ink.drawImage(state.picture, 0, 0);
    this.source = state.source;
    this.#eraseMask();
    if (state.mask) this.mask = state.mask;
    this.hasMask = state.mask !== null;
    this.#changed();
  }

  /** A part of a stroke, from a point to another, with widths of its own; null colour erases the mask. */
  line(from, to, { color, isMask }) {
    const ink = isMask ? this.mask.getContext("2d") : this.ink;
    ink.globalCompositeOperation = color === null ? "destination-out" : "source-over";
    Object.assign(ink, { lineCap: "round", lineJoin: "round", lineWidth: to.width, strokeStyle: color ?? "#fff" });
    ink.beginPath();
    ink.moveTo(from.x, from.y);
    ink.lineTo(to.x, to.y + (from === to ? 0.01 : 0)); // a line of no length would leave no dot
    ink.stroke();
    ink.globalCompositeOperation = "source-over";
    if (isMask) this.hasMask = true;
    else this.source = null;
    this.#changed({ moving: true });
  }

  fill(point, color) {
    this.remember();
    this.source = null;
    flood(this.ink, Math.floor(point.x), Math.floor(point.y), color);
    this.#changed();
  }

  /** A stroke has ended. */
  lift() {
    const had = this.hasMask;
    this.hasMask &&= this.#isPainted();
    if (had === this.hasMask) this.#tell(false);
    else this.#changed();
  }

  invert(isInverted) {
    if (this.isInverted === isInverted) return;
    this.isInverted = isInverted;
    this.#changed();
  }

  clearMask() {
    this.remember();
    this.#eraseMask();
    this.#changed();
  }

  #eraseMask() {
    this.mask.getContext("2d").clearRect(0, 0, this.mask.width, this.mask.height);
    this.hasMask = false;
  }

  #isPainted() {
    const { data } = this.mask.getContext("2d").getImageData(0, 0, this.mask.width, this.mask.height);
    for (let at = 3; at < data.length; at += 4) if (data[at] > 127) return true;
    return false;
  }

  #changed({ moving = false } = {}) {
    this.version += 1;
    this.#file = null;
    this.#drawOverlay();
    this.#tell(moving);
  }

  #tell = (moving) => this.dispatchEvent(new CustomEvent("change", { detail: { moving } }));

  /** What is remade, in stripes that show on white, on black and on every colour. */
  #drawOverlay() {
    const { width, height } = this.overlay;
    const ink = this.overlay.getContext("2d");
    ink.clearRect(0, 0, width, height);
    if (!this.hasMask) return;
    this.#stripes ??= stripes(ink);
    if (this.isInverted) {
      ink.fillStyle = this.#stripes;
      ink.fillRect(0, 0, width, height);
      ink.globalCompositeOperation = "destination-out";
      ink.drawImage(this.mask, 0, 0);
    } else {
      ink.drawImage(this.mask, 0, 0);
      ink.globalCompositeOperation = "source-in";
      ink.fillStyle = this.#stripes;
      ink.fillRect(0, 0, width, height);
    }
    ink.globalCompositeOperation = "source-over";
  }

  /** The files to send: { image, mask }; a picture nobody has drawn on as it came, unless a mask lies over it. */
  async files() {
    const mask = this.hasMask ? await file(this.#inBlackAndWhite()) : null;
    const { file: own, bitmap } = this.source ?? {};
    if (own && !mask && bitmap.width * bitmap.height < LARGEST) return { image: own, mask };
    this.#file ??= file(this.picture);
    return { image: await this.#file, mask };
  }

  #inBlackAndWhite() {
    const made = canvas(this.mask.width, this.mask.height);
    const ink = made.getContext("2d");
    ink.fillRect(0, 0, made.width, made.height);
    ink.drawImage(this.mask, 0, 0);
    return made;
  }
}

const file = (of) => new Promise((resolve) => of.toBlob(resolve, "image/png"));

function stripes(ink) {
  const tile = canvas(STRIPE, STRIPE);
  const paint = tile.getContext("2d");
  paint.fillStyle = "rgba(112, 60, 220, 0.62)";
  paint.fillRect(0, 0, STRIPE, STRIPE);
  paint.strokeStyle = "rgba(255, 255, 255, 0.55)";
  paint.lineWidth = 3;
  for (const shift of [-STRIPE, 0, STRIPE]) {
    paint.moveTo(shift, STRIPE);
    paint.lineTo(shift + STRIPE, 0);
  }
  paint.stroke();
  return ink.createPattern(tile, "repeat");
}
