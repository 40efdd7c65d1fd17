// Generate: from one press to the pictures, or to Cancel.

import * as api from "./api.js";
import { $ } from "./dom.js";
import { body, follow } from "./jobs.js";
import { drawSeed, same } from "./state.js";
import { seconds, t } from "./text.js";

export class Runner {
  #job = null;
  #isCancelled = false;
  #last = null; // what was asked for before
  #before = null; // the picture that was shown
  isRunning = false;

  constructor({ settings, board, stage, panel, gallery }) {
    Object.assign(this, { settings, board, stage, panel, gallery });
  }

  /** Make what the settings say. A second press with nothing changed means another picture: with a new seed. */
  async generate() {
    if (this.isRunning) return;
    this.#begin();
    try {
      const files = await this.board.files();
      const settings = this.#settled(files);
      this.stage.status(t("sending"));
      const job = await api.submit(await body(settings, files));
      this.#job = job.id;
      if (this.#isCancelled) api.cancel(job.id);
      await this.#follow(job, { settings, files });
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#end();
    }
  }

  cancel() {
    if (!this.isRunning) return;
    this.#isCancelled = true;
    if (this.#job) api.cancel(this.#job);
  }

  #settled(files) {
    const { settings } = this;
    const asked = { ...settings.asked(), ...files };
    const again = this.#last && same(asked, this.#last) && files.image === this.#last.image && files.mask === this.#last.mask;
    if (again || settings.get("seed") === null) settings.set("seed", drawSeed());
    this.#last = { ...settings.asked(), ...files };
    return { prompt: settings.get("prompt") ?? "", ...settings.asked() };
  }

  async #follow(job, about) {
    const count = about.settings.num_images ?? 1;
    const last = await follow(job, about, {
      progress: (state) => {
        this.stage.status(told(state, count), { isQuiet: state.state === "running" });
        this.stage.progress(state.calls ? state.calls_done / state.calls : 0);
      },
      preview: (address) => this.stage.preview(address),
      picture: (item) => {
        this.gallery.add(item);
        this.stage.show(item);
      },
    });
    if (last.state === "cancelled") this.#leave(t("cancelled"));
    else this.stage.status(t("done", { seconds: seconds(last.pictures.reduce((sum, made) => sum + made.seconds, 0)) }));
  }

  #begin() {
    this.isRunning = true;
    this.#isCancelled = false;
    this.#job = null;
    this.#before = this.stage.item;
    this.panel.refuse(null);
    this.stage.progress(0);
    this.#label("cancel");
  }

  #end() {
    this.isRunning = false;
    this.stage.progress(null);
    this.stage.preview(null);
    this.#label("generate");
  }

  #fail(error) {
    const isOurs = error instanceof api.Refused;
    this.panel.refuse(isOurs ? error : new api.Refused(t("offline")));
    this.#leave("");
  }

  /** No picture came of it: show the one before. */
  #leave(status) {
    this.stage.status(status);
    if (this.#before) this.stage.show(this.#before);
    else this.stage.clear();
  }

  #label(key) {
    $("generate").classList.toggle("running", this.isRunning);
    $("generate").firstElementChild.dataset.t = key;
    $("generate").firstElementChild.textContent = t(key);
  }
}

/** A job's state in words. */
export function told({ state, position, expected_seconds: left, calls_done: done, calls, pictures }, count) {
  const values = { n: position, done, calls, seconds: seconds(left), count };
  if (state === "waiting") return position ? t("waiting", values) : t("next");
  if (state !== "running") return "";
  return count > 1 ? t("running.many", { ...values, n: Math.min(count, pictures.length + 1) }) : t("running", values);
}
