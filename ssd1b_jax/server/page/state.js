// The settings as they stand: what differs from the defaults is kept, sent, and written into the address.

const SEEDS = ["seed", "variation_seed"]; // have 64 bits, which numbers do not hold: text
const NOT_SETTINGS = ["image", "mask"]; // pictures never go into an address

export const isSeed = (name) => SEEDS.includes(name);

/** The JSON type of a property's values; null, where it is allowed, stands for the default. */
export const typeOf = (property) => [property.type].flat()[0];

/** Tells "change" with { name, moving }; `moving` while a slider is dragged. */
export class Settings extends EventTarget {
  #values = new Map();
  #writing = 0;

  constructor(schema) {
    super();
    this.learn(schema);
  }

  /** Take the properties, once more when the model and its defaults are known. */
  learn(schema) {
    this.schema = schema;
    this.properties = schema.properties;
  }

  knows = (name) => name in this.properties && !NOT_SETTINGS.includes(name);

  preset = (name) => this.properties[name].default ?? null;

  get = (name) => (this.#values.has(name) ? this.#values.get(name) : this.preset(name));

  set(name, value, { moving = false } = {}) {
    this.#put(name, value);
    this.#tell(name, moving);
  }

  /** Take these settings, and the defaults for all others; the prompt stays where none is given. */
  replace(values) {
    const prompt = this.get("prompt");
    this.#values.clear();
    for (const [name, value] of Object.entries({ prompt, ...values })) this.#put(name, value);
    this.#tell(null, false);
  }

  /** What a request sends. */
  asked = () => Object.fromEntries(this.#values);

  #put(name, value) {
    if (!this.knows(name)) return;
    if (value == null || same(value, this.preset(name))) this.#values.delete(name);
    else this.#values.set(name, value);
  }

  #tell(name, moving) {
    clearTimeout(this.#writing);
    this.#writing = setTimeout(() => history.replaceState(null, "", `#${this.address()}`), 200);
    this.dispatchEvent(new CustomEvent("change", { detail: { name, moving } }));
  }

  /** The settings as the part of an address after "#". */
  address() {
    const parts = [...this.#values].map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]);
    return new URLSearchParams(parts).toString();
  }

  /** The settings of an address; what can't be read is left out. */
  read(address) {
    const found = {};
    for (const [name, text] of new URLSearchParams(address)) {
      if (!this.knows(name)) continue;
      try {
        found[name] = isSeed(name) || typeOf(this.properties[name]) === "string" ? text : JSON.parse(text);
      } catch {
        continue;
      }
    }
    return found;
  }
}

export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** A seed that no one has chosen. */
export const drawSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0]);
