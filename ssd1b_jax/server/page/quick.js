// How live pictures are made quickly.

/** Four calls of the model, near to what the full schedule gives, at any strength. */
export const QUICK = { num_inference_steps: 4, exact_steps: true, scheduler: "dpmpp_2m", timestep_spacing: "trailing" };

/** With the model's few-step LoRA, where it has one; it knows no guidance and no other sampler. */
const FAST = { fast: true, num_inference_steps: 4 };
const SLOW = ["scheduler", "guidance_scale", "negative_prompt", "exact_steps"];

/** The quickest way that the server has for what was asked. */
export const quick = (server, asked) => (server.schema.properties.fast && !SLOW.some((name) => name in asked) ? FAST : QUICK);

const DISTILLED = "lcm"; // with it the model is quick already, in steps of its own
const LARGE = 256 * 256; // pixels, from which a PNG takes longer to write than is pleasant
/** Whether settings are quick as they stand. */
export const isQuick = (settings) =>
  settings.get("scheduler") === DISTILLED || settings.get("num_inference_steps") <= QUICK.num_inference_steps;

/** How the file of a live picture is written: nobody keeps it. */
export function light({ width, height }) {
  const file = width * height > LARGE ? { format: "jpeg", quality: 90 } : { format: "png" };
  return { ...file, metadata: false, embed_input: false };
}
