// The browser's storage for small settings; where it is blocked, they last as long as the page.

export type Place = "session" | "local";

const kept = new Map<string, string>();

export function recalled(name: string, place: Place = "local"): string | null {
  try {
    return storage(place).getItem(name);
  } catch {
    return kept.get(`${place} ${name}`) ?? null;
  }
}

export function keep(name: string, value: string, place: Place = "local"): void {
  try {
    storage(place).setItem(name, value);
  } catch {
    kept.set(`${place} ${name}`, value);
  }
}

export function forget(name: string): void {
  kept.delete(`local ${name}`);
  kept.delete(`session ${name}`);
  try {
    localStorage.removeItem(name);
    sessionStorage.removeItem(name);
  } catch {
    // Nothing was kept where it is blocked.
  }
}

function storage(place: Place): Storage {
  return place === "local" ? localStorage : sessionStorage;
}
