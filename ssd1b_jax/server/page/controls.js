// A control for each setting, by its row in the schema: a new setting appears by itself.

import { el, icon } from "./dom.js";
import { drawSeed, isSeed, typeOf } from "./state.js";
import { t } from "./text.js";

const LONGEST = 300; // values of a whole number that a slider is good for
// Where people move; the field beside the slider takes all that is allowed.
const SLIDERS = {
  strength: [0.05, 1, 0.05],
  num_inference_steps: [1, 60, 1],
  guidance_scale: [1, 12, 0.5],
  mask_blur: [0, 32, 1],
  num_images: [1, 10, 1],
};

/** The control of a setting: its element, and how it follows a change from elsewhere. */
export function control(name, settings, server) {
  const property = settings.properties[name];
  const set = (value, options) => settings.set(name, value, options);
  const make = { size, seed, choice, switch: toggle, number, pair, scales, text }[kindOf(name, property)];
  const made = make({ name, property, settings, set, server, id: `setting-${name}`, described: `help-${name} error-${name}` });
  const title = el("label", { for: `setting-${name}`, t: `setting.${name}`, "data-t-else": property.title });
  const help = el("p", { id: `help-${name}`, class: "help", t: `help.${name}`, "data-t-else": sentence(property.description) });
  const error = el("p", { id: `error-${name}`, class: "error", role: "alert", hidden: true });
  const node = el("div", { class: `control ${made.kind ?? ""}`, "data-setting": name }, title, ...made.nodes, help, error);
  return { node, update: made.update };
}

const sentence = (words) => words[0].toUpperCase() + words.slice(1);

function kindOf(name, property) {
  const type = typeOf(property);
  if (name === "width" || name === "height") return "size";
  if (isSeed(name)) return "seed";
  if (property.enum) return "choice";
  return { boolean: "switch", integer: "number", number: "number", array: "pair", object: "scales" }[type] ?? "text";
}

function read(input) {
  return input.value.trim() === "" ? null : Number(input.value);
}

function number(about) {
  const { name, property, settings, set, id, described } = about;
  const range = rangeOf(name, property);
  const field = el("input", { id, type: "number", step: "any", inputmode: "decimal", "aria-describedby": described });
  field.dataset.tPlaceholder = "default";
  field.addEventListener("change", () => set(read(field)));
  const slider = range && el("input", { type: "range", min: String(range[0]), max: String(range[1]), step: String(range[2]) });
  if (slider) {
    Object.assign(slider.dataset, { tLabel: `setting.${name}`, tElse: property.title });
    slider.addEventListener("input", () => set(Number(slider.value), { moving: true }));
    slider.addEventListener("change", () => set(Number(slider.value)));
  }
  const update = () => {
    const value = settings.get(name);
    field.value = value ?? "";
    if (slider) slider.value = value ?? range[0];
  };
  return { nodes: slider ? [field, slider] : [field], update, kind: slider ? "slider" : "" };
}

function rangeOf(name, property) {
  if (name in SLIDERS) {
    const [low, high, step] = SLIDERS[name];
    return [low, Math.min(high, property.maximum ?? high), step];
  }
  const { minimum: low, maximum: high } = property;
  if (low === undefined || high === undefined || high - low > LONGEST) return null;
  return [low, high, typeOf(property) === "integer" ? 1 : (high - low) / 20];
}

function seed({ name, settings, set, id, described }) {
  const field = el("input", { id, type: "text", inputmode: "numeric", autocomplete: "off", "aria-describedby": described });
  field.dataset.tPlaceholder = "seed.placeholder";
  field.addEventListener("change", () => set(field.value.trim() || null));
  const button = el("button", { type: "button", class: "plain", label: "seed.new" }, icon("again"));
  button.addEventListener("click", () => set(drawSeed()));
  return { nodes: [field, button], update: () => { field.value = settings.get(name) ?? ""; }, kind: "seed" };
}

function choice({ name, property, settings, set, server, id, described }) {
  const labels = name === "scheduler" ? server.samplers : {};
  const options = property.enum.filter((word) => word !== null);
  const empty = property.default == null ? [el("option", { value: "", t: "default" })] : [];
  const field = el("select", { id, "aria-describedby": described }, ...empty,
    ...options.map((word) => el("option", { value: word, text: labels[word] ?? word })));
  field.addEventListener("change", () => set(field.value || null));
  return { nodes: [field], update: () => { field.value = settings.get(name) ?? ""; } };
}

function toggle({ name, settings, set, id, described }) {
  const field = el("input", { id, type: "checkbox", "aria-describedby": described });
  field.addEventListener("change", () => set(field.checked));
  return { nodes: [field], update: () => { field.checked = settings.get(name) === true; }, kind: "inline" };
}

function text({ name, settings, set, id, described }) {
  const field = el("input", { id, type: "text", autocomplete: "off", spellcheck: false, "aria-describedby": described });
  field.addEventListener("input", () => set(field.value || null, { moving: true }));
  field.addEventListener("change", () => set(field.value || null));
  const update = () => {
    if (field !== document.activeElement) field.value = settings.get(name) ?? "";
  };
  return { nodes: [field], update };
}

function pair(about) {
  const { name, settings, set, id, described } = about;
  const fields = ["first", "second"].map((which) => {
    const field = el("input", { type: "number", step: "any", label: which, "aria-describedby": described });
    Object.assign(field.dataset, { tPlaceholder: "default", tName: `setting.${name}`, tElse: about.property.title });
    field.addEventListener("change", () => {
      const values = fields.map(read);
      if (!values.includes(null)) set(values);
      else if (values.every((value) => value === null)) set(null);
    });
    return field;
  });
  fields[0].id = id;
  const update = () => fields.forEach((field, index) => { field.value = settings.get(name)?.[index] ?? ""; });
  return { nodes: fields, update, kind: "pair" };
}

function scales({ settings, name, set, server, id }) {
  if (!server.loras.length) return { nodes: [el("p", { id, class: "help", t: "loras.none" })], update: () => null };
  const fields = server.loras.map((lora) => {
    const field = el("input", { type: "number", step: "0.1", min: "-10", max: "10", "aria-label": lora });
    field.addEventListener("change", () => {
      const { [lora]: _, ...others } = settings.get(name) ?? {};
      set(read(field) ? { ...others, [lora]: read(field) } : others);
    });
    return field;
  });
  fields[0].id = id;
  const nodes = server.loras.flatMap((lora, index) => [el("span", { text: lora }), fields[index]]);
  const update = () => server.loras.forEach((lora, index) => { fields[index].value = settings.get(name)?.[lora] ?? ""; });
  return { nodes, update, kind: "scales" };
}

/** Width and height: one of the server's sizes, or any. */
function size(about) {
  const { name, settings, server, id, described } = about;
  if (server.any_size) return number(about);
  const index = name === "width" ? 0 : 1;
  const field = el("select", { id, "aria-describedby": described },
    ...[...new Set(server.sizes.map((each) => each[index]))].map((side) => el("option", { value: String(side), text: String(side) })));
  field.addEventListener("change", () => {
    const side = Number(field.value);
    const other = settings.get(index ? "width" : "height");
    const fits = server.sizes.filter((each) => each[index] === side);
    const [width, height] = fits.find((each) => each[1 - index] === other) ?? fits[0];
    settings.set("width", width);
    settings.set("height", height);
  });
  return { nodes: [field], update: () => { field.value = String(settings.get(name) ?? server.sizes[0]?.[index] ?? ""); } };
}

export const words = (name, property) => t(`setting.${name}`, {}, property.title);
