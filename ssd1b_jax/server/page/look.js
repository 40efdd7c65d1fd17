// Dark or light: as the system, or as it was chosen here.

import { $, icon } from "./dom.js";
import { recalled, remember } from "./remember.js";
import { label, t } from "./text.js";

const KEPT = "ssd1b.theme";
const THEMES = ["auto", "light", "dark"];

export function look() {
  const button = $("theme");
  button.replaceChildren(icon("theme"));
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.dataset.tLabel = `theme.${theme}`;
    label(button, t(button.dataset.tLabel));
  };
  let theme = recalled("localStorage", KEPT) ?? "auto";
  apply(theme);
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remember("localStorage", KEPT, theme);
    apply(theme);
  });
}
