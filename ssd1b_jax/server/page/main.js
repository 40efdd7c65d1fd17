// The page: what there is, and how it starts.

import { Actions } from "./actions.js";
import * as api from "./api.js";
import { Board } from "./board.js";
import { $, dress, el, show } from "./dom.js";
import { Gallery } from "./gallery.js";
import { GridDialog } from "./grid.js";
import { FIRST } from "./ideas.js";
import { Intake } from "./intake.js";
import { keep, recall } from "./keep.js";
import { described } from "./key.js";
import { Live } from "./live.js";
import { look } from "./look.js";
import { Panel } from "./panel.js";
import { QUICK } from "./quick.js";
import { Runner } from "./run.js";
import { Stage } from "./stage.js";
import { Settings } from "./state.js";
import { LANGUAGES, choose, language, preferred, t } from "./text.js";
import { Tools } from "./tools.js";

const LOOK_MS = 1000; // between looks at a server that loads its model

async function start() {
  dress(document);
  await choose(preferred());
  const server = await described();
  const settings = new Settings(server.schema);
  const board = new Board($("picture"), $("overlay"));
  const panel = new Panel(settings, server);
  const stage = new Stage(panel);
  const gallery = new Gallery(stage);
  const parts = { server, settings, board, panel, stage, gallery };
  parts.runner = new Runner(parts);
  parts.live = new Live(parts);
  const intake = new Intake(parts);
  new Tools(board, settings);
  new Actions(parts);
  new GridDialog(parts);
  compose(parts);
  keys(parts);
  look();
  languages(parts);
  settings.addEventListener("change", () => resize(board, settings));
  intake.offer(server.examples);
  gallery.load();
  await begin(parts, intake);
  describe(server, settings, board);
  if (server.state !== "ready") await wait(parts);
}

/** The board as it was left, else the example of a first visit; the settings of the address, else those that were left. */
async function begin({ settings, board }, intake) {
  const left = await recall(board);
  const address = location.hash.slice(1) || left;
  const { example, ...first } = FIRST;
  if (left === null) await intake.start(example, {});
  settings.replace(address ? settings.read(address) : first);
  board.forget();
  keep(board, settings);
  window.addEventListener("hashchange", (event) => settings.replace(settings.read(new URL(event.newURL).hash.slice(1))));
}

/** Look at a server that loads its model until it takes pictures. */
async function wait(parts) {
  const { settings, board, panel, stage } = parts;
  $("generate").disabled = true;
  stage.status(t("loading"));
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    const known = await api.settings().catch(() => null);
    if (known?.state !== "ready") continue;
    const server = Object.assign(parts.server, known); // which the live mode has too
    settings.learn(server.schema);
    panel.build(server);
    describe(server, settings, board);
    stage.status("");
    $("generate").disabled = false;
    return;
  }
}

function describe(server, settings, board) {
  const name = server.model.split("/").pop();
  const sizes = server.sizes.map((sides) => sides.join(" × ")).join(", ");
  $("model").textContent = server.sizes.length ? t("model", { model: name, size: sizes }) : name;
  resize(board, settings);
}

function resize(board, settings) {
  const [width, height] = [settings.get("width"), settings.get("height")];
  if (width && height) board.resize(width, height);
  document.body.style.setProperty("--shape", `${board.picture.width} / ${board.picture.height}`);
}

/** The prompt, and the button. */
function compose({ settings, runner, stage, live }) {
  const prompt = $("prompt");
  prompt.addEventListener("input", () => settings.set("prompt", prompt.value, { moving: true }));
  prompt.addEventListener("change", () => settings.set("prompt", prompt.value));
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    runner.generate();
  });
  settings.addEventListener("change", () => {
    if (prompt !== document.activeElement || !prompt.value) prompt.value = settings.get("prompt") ?? "";
  });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (runner.isRunning) runner.cancel();
    else runner.generate();
    if (matchMedia("(max-width: 50rem)").matches) $("output").scrollIntoView({ block: "center" });
  });
  const invite = () => { $("empty").textContent = t(live.isOn ? "empty.live" : "empty"); };
  $("live").addEventListener("change", invite);
  invite();
}

function keys({ runner }) {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) runner.generate();
    else if (event.key === "Escape" && !document.querySelector("dialog[open]")) runner.cancel();
  });
}

function languages(parts) {
  const { panel, gallery, live } = parts;
  const field = $("language");
  field.replaceChildren(...Object.entries(LANGUAGES).map(([tag, name]) => el("option", { value: tag, text: name, lang: tag })));
  field.value = language();
  const explain = () => { $("live").parentElement.title = t("live.help", { steps: QUICK.num_inference_steps }); };
  explain();
  field.addEventListener("change", async () => {
    await choose(field.value, { isKept: true });
    panel.build(parts.server);
    gallery.show();
    explain();
    $("empty").textContent = t(live.isOn ? "empty.live" : "empty");
  });
}

start().catch((error) => show($("error"), error instanceof api.Refused ? error.message : t("offline")) ?? console.warn(error));
