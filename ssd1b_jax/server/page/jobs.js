// A job from its settings to its pictures.

import * as api from "./api.js";

/** What a request sends for these settings and files. */
export async function body(settings, { image, mask }) {
  const sent = { ...settings, image: await api.base64(image) };
  if (mask) sent.mask = await api.base64(mask);
  return sent;
}

/**
 * Follow a job to its end. `progress` gets its state, `preview` a picture's address, `picture` each picture as it is
 * done, as kept by the gallery. Raises Refused where the job failed; a cancelled one ends silently.
 */
export async function follow(job, about, { progress, preview, picture }) {
  let done = 0;
  let last = job;
  for await (const [name, value] of api.events(job.id)) {
    if (name === "preview") {
      preview?.(value.image);
      continue;
    }
    last = value;
    progress?.(value);
    while (done < value.pictures.length) {
      const made = value.pictures[done];
      picture(kept(about, made, await api.picture(job.id, done)));
      done += 1;
    }
  }
  if (last.state === "failed") throw new api.Refused(last.error, last.field);
  return last;
}

/** A picture with all that made it. */
export function kept({ settings, files }, made, file) {
  const { num_images: _, ...own } = settings;
  return {
    id: `${Date.now()}-${crypto.randomUUID()}`,
    file,
    image: files.image,
    mask: files.mask,
    settings: { ...own, seed: made.seed },
    width: made.width,
    height: made.height,
    seconds: made.seconds,
    notes: made.notes,
  };
}
