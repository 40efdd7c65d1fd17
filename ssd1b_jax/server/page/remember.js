// Small values that the browser remembers. Where it blocks its storage, reading or writing throws: nothing is remembered.

/** A value of "localStorage" or "sessionStorage", or null. */
export function recalled(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

export function remember(storage, key, value) {
  try {
    window[storage].setItem(key, value);
  } catch {
    // The page works without.
  }
}
