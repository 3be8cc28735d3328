// The time for what is shown of it, read anew while something runs.
import { useEffect, useState } from "preact/hooks";

/** Milliseconds of the wall clock, every `period_ms` while `active`. */
export function useNow(active: boolean, period_ms = 100): number {
  const [now_ms, setNow] = useState(Date.now);
  useEffect(() => {
    if (!active) return undefined;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), period_ms);
    return () => clearInterval(timer);
  }, [active, period_ms]);
  return now_ms;
}
