// Live: the picture is remade while someone draws or moves a slider.
//
// One picture is computed at a time, and always of the newest state. While a hand moves, the one that is computed is
// finished first, so that something is seen; when the hand rests, it is given up for the state that stays. A server that
// is busy is asked again after the seconds that it names, for what is newest then.

import * as api from "./api.js";
import { $ } from "./dom.js";
import { body, follow, kept } from "./jobs.js";
import { isQuick, light, quick } from "./quick.js";
import { drawSeed } from "./state.js";
import { number, seconds, t } from "./text.js";

const TIMES = 8; // of the last pictures, for the rate

export class Live {
  isOn = false;
  #changed = null; // when the oldest change came that is on no picture yet
  #computed = null; // what gives up the picture that is computed
  #isBusy = false;
  #goOn = null; // what ends the wait for a busy server
  #state = null; // that is computed or shown
  #times = [];

  constructor({ server, settings, board, stage, panel, gallery, runner }) {
    Object.assign(this, { server, settings, board, stage, panel, gallery, runner });
    board.addEventListener("change", (event) => this.#change(event.detail.moving));
    settings.addEventListener("change", (event) => this.#change(event.detail.moving));
    $("live").addEventListener("change", (event) => this.turn(event.target.checked));
    $("keep").addEventListener("click", () => this.#keep());
  }

  turn(isOn) {
    this.isOn = isOn;
    $("live").checked = isOn;
    document.body.classList.toggle("live", isOn);
    this.#times = [];
    this.#state = null;
    this.stage.status("");
    $("keep").hidden = true;
    if (isOn) this.#change(false);
    else this.#stop();
  }

  #stop() {
    this.#changed = null;
    this.#computed?.abort();
    this.#goOn?.();
  }

  #change(isMoving) {
    if (!this.isOn || this.runner.isRunning || this.#now() === this.#state) return;
    this.#changed ??= performance.now();
    if (!isMoving) this.#computed?.abort();
    this.#next();
  }

  async #next() {
    if (this.#isBusy) return;
    this.#isBusy = true;
    while (this.isOn && this.#changed !== null && !this.runner.isRunning) {
      const since = this.#changed;
      this.#changed = null;
      try {
        await this.#make(since);
      } catch (error) {
        this.#state = null;
        if (error.name === "AbortError") this.#changed &&= since;
        else if (error.wait && this.isOn) await this.#wait(error.wait, since);
        else this.panel.refuse(error instanceof api.Refused ? error : new api.Refused(t("offline")));
      }
    }
    this.#isBusy = false;
  }

  async #wait(wait, since) {
    this.#changed ??= since;
    this.panel.refuse(null);
    this.stage.status(t("live.wait", { seconds: number(wait, 0) }), { isQuiet: true });
    await new Promise((resolve) => {
      this.#goOn = resolve;
      setTimeout(resolve, 1000 * wait);
    });
  }

  async #make(since) {
    const began = performance.now();
    const { signal } = (this.#computed = new AbortController());
    const settings = this.#quick();
    this.#state = this.#now();
    this.#changed = null; // by the seed that was drawn
    const files = await this.board.files();
    const sent = await body({ ...settings, ...light(settings) }, files);
    performance.measure("live.send", { start: began });
    const asked = performance.now();
    const made = await api.make(sent, signal);
    performance.measure("live.make", { start: asked });
    this.panel.refuse(null);
    if (!this.isOn) return;
    const { width, height } = settings;
    await this.#show(kept({ settings, files }, { ...made, width, height }, made.file), since, began);
  }

  async #show(item, since, began) {
    await this.stage.show(item);
    $("keep").hidden = false;
    const now = performance.now();
    performance.measure("live", { start: since, end: now });
    this.#times = [...this.#times, (now - began) / 1000].slice(-TIMES);
    const mean = this.#times.reduce((sum, time) => sum + time, 0) / this.#times.length;
    this.stage.status(t("live.rate", { seconds: seconds(mean), rate: number(1 / mean, 1) }), { isQuiet: true });
  }

  /** What would be computed now; a hand that lifts the pen, or lets go of a slider, changes nothing of it. */
  #now = () => `${this.board.version} ${JSON.stringify(this.settings.asked())}`;

  /** The settings to make it with: those that stand, quick, with all that says which picture it is. */
  #quick() {
    const { settings } = this;
    if (settings.get("seed") === null) settings.set("seed", drawSeed(), { moving: true });
    const { num_images: _, upscale: __, ...asked } = settings.asked();
    const [width, height] = [settings.get("width"), settings.get("height")];
    return { prompt: settings.get("prompt") ?? "", ...asked, width, height, ...(isQuick(settings) ? {} : quick(this.server, asked)) };
  }

  /** Live pictures are light files; what is kept is made once more, with its record. */
  async #keep() {
    const { item } = this.stage;
    $("keep").hidden = true;
    if (!item) return;
    const { settings, image, mask } = item;
    const files = { image, mask };
    try {
      const job = await api.submit(await body(settings, files));
      await follow(job, { settings, files }, { picture: (made) => this.#kept(made, item) });
    } catch (error) {
      this.panel.refuse(error instanceof api.Refused ? error : new api.Refused(t("offline")));
    }
  }

  #kept(made, item) {
    this.gallery.add(made);
    if (this.stage.item === item) this.stage.show(made);
  }
}
