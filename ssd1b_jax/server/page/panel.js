// The controls on the page: the basic ones in sight, all others by group; errors by the field that they name.

import { control, words } from "./controls.js";
import { $, el, show } from "./dom.js";
import { translate } from "./text.js";

const BASIC = ["strength", "num_inference_steps", "guidance_scale", "num_images", "negative_prompt", "seed"];
const ELSEWHERE = ["prompt", "image", "mask"]; // of the settings, what has a place of its own

export class Panel {
  #controls = [];

  constructor(settings, server) {
    this.settings = settings;
    this.build(server);
    settings.addEventListener("change", () => this.update());
    $("reset").addEventListener("click", () => settings.replace({}));
  }

  build(server) {
    const { properties, schema } = this.settings;
    properties.num_images.maximum = server.pictures;
    this.#controls = [];
    const add = (name) => {
      const made = control(name, this.settings, server);
      this.#controls.push(made);
      return made.node;
    };
    $("basics").replaceChildren(...BASIC.filter((name) => name in properties).map(add));
    const others = Object.entries(schema.groups).map(([group, { title, settings }]) => {
      const names = settings.filter((name) => !BASIC.includes(name) && !ELSEWHERE.includes(name));
      const heading = el("legend", { t: `group.${group}`, "data-t-else": title });
      return names.length ? el("fieldset", {}, heading, ...names.map(add)) : null;
    });
    $("groups").replaceChildren(...others.filter(Boolean));
    translate($("basics"));
    translate($("groups"));
    this.update();
  }

  update() {
    for (const { update } of this.#controls) update();
  }

  /** Show the server's sentence by the field that it names, else by the button; null takes all away. */
  refuse(error) {
    for (const node of document.querySelectorAll(".error")) show(node, null);
    for (const node of document.querySelectorAll("[aria-invalid]")) node.removeAttribute("aria-invalid");
    if (!error) return;
    const place = (error.field && $(`error-${error.field}`)) || $("error");
    show(place, error.message);
    place.closest("details")?.setAttribute("open", "");
    const field = error.field === "prompt" ? $("prompt") : $(`setting-${error.field}`);
    field?.setAttribute("aria-invalid", "true");
    (field ?? place).scrollIntoView({ block: "nearest" });
    field?.focus();
  }

  /** What a setting is called. */
  title = (name) => words(name, this.settings.properties[name]);
}
