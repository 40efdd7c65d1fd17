// The reader's language: one file of strings each, in strings/. Elements name their text by data-t, data-t-label (also
// the tooltip) and data-t-placeholder; what is written by a module comes from t().

import { recalled, remember } from "./remember.js";

export const LANGUAGES = { en: "English", de: "Deutsch" };
const KEPT = "ssd1b.language";

let strings = {};
let chosen = "en";

export const language = () => chosen;

/** The language that was chosen here, else the browser's first that we have. */
export function preferred() {
  const wishes = [recalled("localStorage", KEPT), ...navigator.languages.map((tag) => tag.slice(0, 2))];
  return wishes.find((tag) => tag in LANGUAGES) ?? "en";
}

export async function choose(tag, { isKept = false } = {}) {
  strings = (await import(`./strings/${tag}.js`)).default;
  chosen = tag;
  document.documentElement.lang = tag;
  document.title = t("title");
  if (isKept) remember("localStorage", KEPT, tag);
  translate(document);
}

/** A string with its {names} filled in; `fallback` where there is none of that key. */
export function t(key, values = {}, fallback = key) {
  const text = strings[key] ?? fallback;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export const number = (value, digits = 2) =>
  new Intl.NumberFormat(chosen, { maximumFractionDigits: digits }).format(value);

/** Seconds as a person would say them. */
export const seconds = (value) => number(value, value < 10 ? (value < 1 ? 2 : 1) : 0);

export function label(node, text) {
  node.setAttribute("aria-label", text);
  if (node.matches("button")) node.title = text;
}

/** Write the texts of all elements below `root`. */
export function translate(root) {
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = of(node, node.dataset.t);
  for (const node of root.querySelectorAll("[data-t-label]")) label(node, of(node, node.dataset.tLabel));
  for (const node of root.querySelectorAll("[data-t-placeholder]")) node.placeholder = t(node.dataset.tPlaceholder);
}

/** `data-t-name` is the key of a {name} in it, `data-t-else` the text where the language has none. */
function of(node, key) {
  const { tName, tElse } = node.dataset;
  return t(key, tName ? { name: t(tName, {}, tElse) } : {}, tElse ?? key);
}
