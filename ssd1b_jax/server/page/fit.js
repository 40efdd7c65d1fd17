// A picture brought to the size of a canvas, as the server's resize_mode does it.

/** Draw `picture` on all of the canvas of `ink`: cropped, padded with its border, or stretched; clear parts are white. */
export function fit(ink, picture, mode) {
  const { width, height } = ink.canvas;
  ink.fillStyle = "#fff";
  ink.fillRect(0, 0, width, height);
  ink.imageSmoothingQuality = "high";
  if (mode === "stretch") {
    ink.drawImage(picture, 0, 0, width, height);
    return;
  }
  const ratios = [width / picture.width, height / picture.height];
  const ratio = ["crop", "fit"].includes(mode) ? Math.max(...ratios) : Math.min(...ratios);
  const [wide, high] = [Math.round(picture.width * ratio), Math.round(picture.height * ratio)];
  const [left, top] = [Math.floor((width - wide) / 2), Math.floor((height - high) / 2)];
  ink.drawImage(picture, left, top, wide, high);
  if (mode === "pad") repeatBorders(ink, left, top, wide, high);
}

function repeatBorders(ink, left, top, wide, high) {
  const { canvas } = ink;
  ink.imageSmoothingEnabled = false;
  const [right, bottom] = [left + wide, top + high];
  if (left > 0) ink.drawImage(canvas, left, top, 1, high, 0, top, left, high);
  if (right < canvas.width) ink.drawImage(canvas, right - 1, top, 1, high, right, top, canvas.width - right, high);
  if (top > 0) ink.drawImage(canvas, 0, top, canvas.width, 1, 0, 0, canvas.width, top);
  if (bottom < canvas.height) {
    ink.drawImage(canvas, 0, bottom - 1, canvas.width, 1, 0, bottom, canvas.width, canvas.height - bottom);
  }
  ink.imageSmoothingEnabled = true;
}
