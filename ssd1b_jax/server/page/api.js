// The server's routes. Addresses are relative, so that the page also works behind a proxy's path.

import { recalled, remember } from "./remember.js";

const KEPT = "ssd1b.key";

/** What the server refused: its sentence, the field that it names, and the seconds after which to ask again, or 0. */
export class Refused extends Error {
  constructor(sentence, field = null, status = 0, wait = 0) {
    super(sentence);
    this.field = field;
    this.status = status;
    this.wait = wait;
  }
}

let key = recalled("sessionStorage", KEPT) ?? "";

export function useKey(value) {
  key = value;
  remember("sessionStorage", KEPT, value);
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, "x-api-key": key };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: null }));
  const wait = Number(answer.headers.get("retry-after")) || 0;
  throw new Refused(error?.message ?? answer.statusText, error?.field ?? null, answer.status, wait);
}

async function json(path, options) {
  return (await ask(path, options)).json();
}

export const settings = () => json("settings");

const posted = (body) => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

export const submit = (body) => json("jobs", posted(body));

/** One picture in one answer: { file, seed, seconds, notes }. Aborting the signal cancels it. */
export async function make(body, signal) {
  const answer = await ask("pictures", { ...posted(body), signal });
  const [seed, seconds, notes] = ["x-seed-value", "x-generation-time", "x-notes"].map((name) => answer.headers.get(name));
  return { file: await answer.blob(), seed, seconds: Number(seconds), notes: notes ? notes.split("; ") : [] };
}

export const cancel = (id) => json(`jobs/${id}`, { method: "DELETE" }).catch(() => null);

export const picture = async (id, index) => (await ask(`jobs/${id}/pictures/${index}`)).blob();

/** The events of a job, as [name, value], until it has ended. */
export async function* events(id) {
  const answer = await ask(`jobs/${id}/events`, { headers: { accept: "text/event-stream" } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const [, name, data] = /^event: (.*)\ndata: (.*)$/s.exec(part);
        yield [name, JSON.parse(data)];
      }
    }
  } finally {
    reader.cancel().catch(() => null);
  }
}

/** The settings that a picture's file brings along. */
export const records = (file) => json("records", { method: "POST", body: form({ file }) });

/** Whether the server makes the same pixels again. */
export const replay = (file, image, mask) => json("replay", { method: "POST", body: form({ file, image, mask }) });

function form(files) {
  const data = new FormData();
  for (const [name, file] of Object.entries(files)) if (file) data.append(name, file, `${name}.png`);
  return data;
}

/** A file as base64. */
export async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (bytes.toBase64) return bytes.toBase64();
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

export function fromBase64(text) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}
