// What is nested deeper than the browser's stack is shown as it was written.

/** What the work gives; `instead` where it needs more of the stack than there is. */
export function unlessTooDeep<T>(work: () => T, instead: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof RangeError) return instead();
    throw error;
  }
}
