// A table of pictures as one picture, to download.

const GAP = 8;
const HEAD = 30;
const SIDE = 192; // pixels of a cell, at least
const INK = "#1f1d1b";

/** A PNG of rows of files, with the values of both settings beside them. */
export async function draw(rows, { x, y, across, down }) {
  const bitmaps = await Promise.all(rows.map((row) => Promise.all(row.map((file) => createImageBitmap(file)))));
  const { width: ownWidth, height: ownHeight } = bitmaps[0][0];
  const scale = Math.max(1, SIDE / ownWidth);
  const [width, height] = [ownWidth * scale, ownHeight * scale];
  const paper = document.createElement("canvas");
  const ink = paper.getContext("2d");
  const font = "15px system-ui, sans-serif";
  ink.font = font;
  const left = GAP + Math.max(...[y, ...down].map((word) => ink.measureText(String(word)).width)) + GAP;
  paper.width = left + across.length * (width + GAP);
  paper.height = 2 * HEAD + down.length * (height + GAP);
  ink.fillStyle = "#fff";
  ink.fillRect(0, 0, paper.width, paper.height);
  Object.assign(ink, { font, fillStyle: INK, textBaseline: "middle", imageSmoothingQuality: "high" });
  ink.fillText(x, left, HEAD / 2);
  ink.fillText(y, GAP, 1.5 * HEAD);
  across.forEach((value, column) => ink.fillText(String(value), left + column * (width + GAP), 1.5 * HEAD));
  bitmaps.forEach((row, index) => {
    const top = 2 * HEAD + index * (height + GAP);
    ink.fillText(String(down[index]), GAP, top + height / 2);
    row.forEach((bitmap, column) => ink.drawImage(bitmap, left + column * (width + GAP), top, width, height));
  });
  return new Promise((resolve) => paper.toBlob(resolve, "image/png"));
}
