// The time for what is shown of it, read anew while something runs.
import { useEffect, useState } from "preact/hooks";
import { now_ms } from "../service/now.ts";

/** Milliseconds, read anew every `period_ms` while `active`. */
export function useNow(active: boolean, period_ms = 100): number {
  const [shown_ms, setNow] = useState(now_ms);
  useEffect(() => {
    if (!active) return undefined;
    setNow(now_ms());
    const timer = setInterval(() => setNow(now_ms()), period_ms);
    return () => clearInterval(timer);
  }, [active, period_ms]);
  return shown_ms;
}
