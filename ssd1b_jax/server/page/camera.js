// A picture from the camera.

import { $, toast } from "./dom.js";
import { t } from "./text.js";

/** Show what the camera sees; gives a file, or null where it was closed. */
export async function shoot() {
  const dialog = $("camera-dialog");
  const video = dialog.querySelector("video");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    toast(t("camera.none", { reason: error.message }));
    return null;
  }
  video.srcObject = stream;
  dialog.showModal();
  const taken = await new Promise((resolve) => {
    dialog.querySelector("button.main").onclick = () => resolve(frame(video));
    dialog.onclose = () => resolve(null);
  });
  dialog.close();
  for (const track of stream.getTracks()) track.stop();
  return taken;
}

function frame(video) {
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
