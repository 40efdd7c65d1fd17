// Live: the picture is remade while someone draws or moves a slider.
//
// One picture is computed at a time, and always of the newest state. While a hand moves, the one that is computed is
// finished first, so that something is seen; when the hand rests, it is given up for the state that stays.

import * as api from "./api.js";
import { $ } from "./dom.js";
import { body, follow } from "./jobs.js";
import { drawSeed } from "./state.js";
import { number, seconds, t } from "./text.js";

/** Four calls of the model, near to what the full schedule gives, at any strength. */
export const QUICK = { num_inference_steps: 4, exact_steps: true, scheduler: "dpmpp_2m", timestep_spacing: "trailing" };
/** With the model's few-step LoRA, where it has one. */
const FAST = { fast: true, scheduler: "lcm", num_inference_steps: 4, guidance_scale: 1 };
const DISTILLED = "lcm"; // with it the model is quick already, in steps of its own
const TIMES = 8; // of the last pictures, for the rate

export class Live {
  isOn = false;
  #changed = null; // when the oldest change came that is on no picture yet
  #job = null;
  #isBusy = false;
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
    this.stage.status("");
    $("keep").hidden = true;
    if (isOn) this.#change(false);
    else this.#stop();
  }

  #stop() {
    this.#changed = null;
    if (this.#job) api.cancel(this.#job);
  }

  #change(isMoving) {
    if (!this.isOn || this.runner.isRunning) return;
    this.#changed ??= performance.now();
    if (!isMoving && this.#job) api.cancel(this.#job);
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
        this.panel.refuse(error instanceof api.Refused ? error : new api.Refused(t("offline")));
      }
    }
    this.#isBusy = false;
  }

  async #make(since) {
    const began = performance.now();
    const files = await this.board.files();
    const settings = this.#quick();
    const job = await api.submit(await body(settings, files));
    this.#job = job.id;
    if (!this.isOn) api.cancel(job.id);
    this.panel.refuse(null);
    let shown = null;
    await follow(job, { settings, files }, { picture: (item) => { shown = this.#show(item, since, began); } });
    this.#job = null;
    await shown;
  }

  async #show(item, since, began) {
    if (!this.isOn) return;
    await this.stage.show(item);
    $("keep").hidden = false;
    const now = performance.now();
    performance.measure("live", { start: since, end: now });
    this.#times = [...this.#times, (now - began) / 1000].slice(-TIMES);
    const mean = this.#times.reduce((sum, time) => sum + time, 0) / this.#times.length;
    this.stage.status(t("live.rate", { seconds: seconds(mean), rate: number(1 / mean, 1) }), { isQuiet: true });
  }

  #quick() {
    const { settings } = this;
    if (settings.get("seed") === null) settings.set("seed", drawSeed(), { moving: true });
    const { num_images: _, upscale: __, ...asked } = settings.asked();
    const isSlow = settings.get("scheduler") !== DISTILLED && settings.get("num_inference_steps") > QUICK.num_inference_steps;
    const quick = this.server.schema.properties.fast ? FAST : QUICK;
    return { prompt: settings.get("prompt") ?? "", ...asked, ...(isSlow ? quick : {}) };
  }

  #keep() {
    if (this.stage.item) this.gallery.add(this.stage.item);
    $("keep").hidden = true;
  }
}
