// Filling an area with a colour, by lines.

const LIKE = 48; // of the difference of two colours, the largest of their channels, that still is one area

/** Fill the area around a point of a canvas; soft edges of the lines around it are filled too. */
export function flood(ink, x, y, color) {
  const { width, height } = ink.canvas;
  const image = ink.getImageData(0, 0, width, height);
  const { data } = image;
  const [red, green, blue] = parse(color);
  const start = 4 * (y * width + x);
  const [r, g, b] = [data[start], data[start + 1], data[start + 2]];
  const done = new Uint8Array(width * height);
  const isLike = (at) => {
    const i = 4 * at;
    return Math.max(Math.abs(data[i] - r), Math.abs(data[i + 1] - g), Math.abs(data[i + 2] - b)) <= LIKE;
  };
  const stack = [y * width + x];
  while (stack.length) {
    let at = stack.pop();
    if (done[at]) continue;
    const row = Math.floor(at / width) * width;
    while (at > row && !done[at - 1] && isLike(at - 1)) at -= 1;
    let [above, below] = [false, false];
    for (; at < row + width && !done[at] && isLike(at); at += 1) {
      done[at] = 1;
      const [up, down] = [at - width, at + width];
      const [goesUp, goesDown] = [up >= 0 && !done[up] && isLike(up), down < done.length && !done[down] && isLike(down)];
      if (goesUp && !above) stack.push(up);
      if (goesDown && !below) stack.push(down);
      [above, below] = [goesUp, goesDown];
    }
  }
  const isEdge = (at) =>
    (at % width > 0 && done[at - 1] === 1) || (at % width < width - 1 && done[at + 1] === 1) ||
    done[at - width] === 1 || done[at + width] === 1;
  for (let at = 0; at < done.length; at += 1) {
    if (done[at] !== 1 && !isEdge(at)) continue;
    data.set([red, green, blue, 255], 4 * at);
  }
  ink.putImageData(image, 0, 0);
}

const parse = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
