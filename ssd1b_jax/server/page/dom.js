// Elements: found, made, labelled with icons; and the line that tells what has just happened.

const SVG = "http://www.w3.org/2000/svg";
const TOAST_MS = 7000;

export const $ = (id) => document.getElementById(id);

/** An element with attributes; `text` is its text, `t` the key of a text in the reader's language. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name === "t") node.dataset.t = value;
    else if (name === "label") node.dataset.tLabel = value;
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** A drawing of icons.svg. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `page/icons.svg#${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Give every element with data-icon its drawing, and every dialog's closing buttons their work. */
export function dress(root) {
  for (const node of root.querySelectorAll("[data-icon]")) {
    const inner = node.dataset.t ? el("span", { t: node.dataset.t }) : null;
    delete node.dataset.t;
    node.replaceChildren(icon(node.dataset.icon), ...(inner ? [inner] : []));
  }
  for (const node of root.querySelectorAll("dialog [data-close]")) {
    node.addEventListener("click", () => node.closest("dialog").close());
  }
}

let toastTimer;

/** Tell what has happened, with a button that does something about it. */
export function toast(text, action, run) {
  const box = $("toast");
  const button = action ? el("button", { type: "button", class: "quiet", text: action }) : null;
  button?.addEventListener("click", () => { box.hidden = true; run(); });
  box.replaceChildren(el("span", { text }), ...(button ? [button] : []));
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; }, TOAST_MS);
}

/** Show a sentence in an element that is hidden while it has none. */
export function show(node, sentence) {
  node.textContent = sentence ?? "";
  node.hidden = !sentence;
}

/** Whether keys go to a field in which someone writes. */
export function isWriting(target) {
  const kinds = ["text", "number", "password", "search"];
  return target.matches("textarea, select") || (target.matches("input") && kinds.includes(target.type));
}
