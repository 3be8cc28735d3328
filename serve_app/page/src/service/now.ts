// The time as the page measures with it.

/** Milliseconds since 1970, as the clock was when the page was opened: whoever sets it meanwhile
 * changes no duration. */
export function now_ms(): number {
  return performance.timeOrigin + performance.now();
}
