// Hands on the board: mouse, finger, pen with its pressure, and keys.

const WHITE = "#ffffff";
const KEY_STEP = 10; // pixels of the board for a press of an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Draws on a board with the tool at hand: { tool, color, size, isErasing } as `hand()` gives it. */
export class Brush {
  #last = null;
  #pointer = null;
  #key = { x: 0, y: 0, isDown: false, isShown: false };

  constructor(element, board, cursor, hand) {
    Object.assign(this, { element, board, cursor, hand });
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, (event) => this.#up(event));
    element.addEventListener("pointerleave", () => { cursor.hidden = !this.#key.isShown; });
    element.addEventListener("keydown", (event) => this.#press(event));
    element.addEventListener("blur", () => this.#liftKey());
  }

  get isDrawing() {
    return this.#last !== null;
  }

  #point(event) {
    const { picture } = this.board;
    const box = picture.getBoundingClientRect();
    const pressure = event.pointerType === "pen" && event.pressure > 0 ? 0.35 + 1.3 * event.pressure : 1;
    return {
      x: ((event.clientX - box.left) / box.width) * picture.width,
      y: ((event.clientY - box.top) / box.height) * picture.height,
      width: this.#width() * pressure,
    };
  }

  #width = () => (this.hand().size / 512) * Math.max(this.board.picture.width, this.board.picture.height);

  #ink() {
    const { tool, color, isErasing } = this.hand();
    if (tool === "mask") return { color: isErasing ? null : WHITE, isMask: true };
    return { color: tool === "eraser" ? WHITE : color, isMask: false };
  }

  #down(event) {
    if (event.button > 0 || this.#pointer !== null) return;
    event.preventDefault();
    this.element.focus({ preventScroll: true, focusVisible: false });
    this.#liftKey();
    const point = this.#point(event);
    if (this.hand().tool === "fill") {
      this.board.fill(point, this.hand().color);
      return;
    }
    this.#pointer = event.pointerId;
    this.element.setPointerCapture(event.pointerId);
    this.#start(point);
  }

  #start(point) {
    this.board.remember();
    this.#last = point;
    this.board.line(point, point, this.#ink());
  }

  #move(event) {
    this.#follow(this.#point(event));
    if (event.pointerId !== this.#pointer) return;
    const parts = event.getCoalescedEvents?.() ?? [];
    for (const part of parts.length ? parts : [event]) {
      const point = this.#point(part);
      this.board.line(this.#last, point, this.#ink());
      this.#last = point;
    }
  }

  #up(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    this.#last = null;
    this.board.lift();
  }

  /** Show where the brush is, and how wide. */
  #follow({ x, y }) {
    const { picture } = this.board;
    const box = picture.getBoundingClientRect();
    const scale = box.width / picture.width;
    const side = Math.max(4, this.#width() * scale);
    const offset = [picture.offsetLeft, picture.offsetTop];
    Object.assign(this.cursor.style, {
      width: `${side}px`,
      height: `${side}px`,
      transform: `translate(${offset[0] + x * scale - side / 2}px, ${offset[1] + y * scale - side / 2}px)`,
    });
    this.cursor.hidden = this.hand().tool === "fill" && !this.#key.isShown;
  }

  #press(event) {
    const key = this.#key;
    const { width, height } = this.board.picture;
    if (event.key in ARROWS) {
      event.preventDefault();
      if (!key.isShown) Object.assign(key, { x: width / 2, y: height / 2, isShown: true });
      const step = event.shiftKey ? 4 * KEY_STEP : KEY_STEP;
      const [x, y] = ARROWS[event.key];
      const from = { x: key.x, y: key.y };
      key.x = Math.min(width, Math.max(0, key.x + x * step));
      key.y = Math.min(height, Math.max(0, key.y + y * step));
      if (key.isDown) this.board.line(from, { x: key.x, y: key.y, width: this.#width() }, this.#ink());
      this.#follow(key);
    } else if (event.key === " " && key.isShown) {
      event.preventDefault();
      if (key.isDown) this.#liftKey();
      else if (this.hand().tool === "fill") this.board.fill(key, this.hand().color);
      else {
        key.isDown = true;
        this.#start({ x: key.x, y: key.y, width: this.#width() });
      }
    }
  }

  #liftKey() {
    if (!this.#key.isDown) return;
    this.#key.isDown = false;
    this.#last = null;
    this.board.lift();
  }
}
