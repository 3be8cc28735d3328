// Which addresses of a model's answer may become links.

const SCHEMES: ReadonlySet<string> = new Set(["http:", "https:", "mailto:"]);

/** The address as a link may have it; null: it stays text. */
export function safeAddress(address: string): string | null {
  try {
    const url = new URL(address);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

const LIKE_AN_ADDRESS = /^(?:https?:\/\/|www\.)|\.(?:com|net|org)(?:[/:?#]|$)/i;

/** The host to be named behind a link: of one whose label reads as the address of another host, or
 * that is written in letters of other alphabets, which look alike. null: nothing is hidden. */
export function hiddenHost(label: string, address: string): string | null {
  const { host, protocol } = new URL(address);
  const named = label.trim();
  if (protocol === "mailto:" || named.includes(host)) return null;
  if (host.includes("xn--")) return host;
  if (!LIKE_AN_ADDRESS.test(named)) return null;
  return hostOf(named) === host ? null : host;
}

function hostOf(label: string): string | null {
  try {
    return new URL(label.includes("://") ? label : `http://${label}`).host;
  } catch {
    return null;
  }
}
