// Requests to the service this page came from, with the user's key.
import { isObject, parsed, textAt } from "./json.ts";
import { key, keysOn, keyWanted } from "./key.ts";

/** The service answered with an error. `retryAfter_s`: when it says to ask again. */
export class ServiceError extends Error {
  override name = "ServiceError";
  readonly status: number;
  readonly code: string | null;
  readonly retryAfter_s: number | null;

  constructor(status: number, message: string, code: string | null, retryAfter_s: number | null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter_s = retryAfter_s;
  }
}

/** The answer to a request; throws ServiceError where it is none, and TypeError without network.
 * The user is asked for a key where one is needed. */
export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  try {
    return await sendQuietly(path, init);
  } catch (error) {
    if (error instanceof ServiceError && error.status === 401) {
      keyWanted.value = true;
      keysOn.value = true;
    }
    throw error;
  }
}

/** The same for what the user can do without: nobody is asked for a key. */
export async function sendQuietly(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.value) headers.set("authorization", `Bearer ${key.value}`);
  const response = await fetch(path, { ...init, headers, credentials: "omit", cache: "no-store" });
  if (response.ok) return response;
  throw await errorOf(response);
}

export async function getJson(path: string, signal?: AbortSignal): Promise<unknown> {
  const response = await send(path, signal ? { signal } : {});
  return (await response.json()) as unknown;
}

export async function getQuietly(path: string, signal: AbortSignal): Promise<unknown> {
  const response = await sendQuietly(path, { signal });
  return (await response.json()) as unknown;
}

async function errorOf(response: Response): Promise<ServiceError> {
  const body = parsed(await response.text());
  const error = isObject(body) ? body["error"] : undefined;
  const message = textAt(error, "message") ?? `${response.status} ${response.statusText}`;
  const after = retryAfter(response.headers.get("retry-after"));
  return new ServiceError(response.status, message, textAt(error, "code"), after);
}

/** Seconds of a Retry-After header, which the service always writes as a number. */
export function retryAfter(header: string | null): number | null {
  if (header === null) return null;
  const seconds = Number(header);
  return header.trim() !== "" && Number.isFinite(seconds) && seconds >= 0 ? seconds : null;
}

/** Of a refusal that comes behind heartbeats, whose status and Retry-After have gone before. */
const STATUSES: Readonly<Record<string, number>> = {
  rate_limit_error: 429,
  service_unavailable_error: 503,
};
const LATE_RETRY_S = 5;

/** The error of an event in a stream that had begun; null where it is another event. */
export function errorInEvent(event: unknown): ServiceError | null {
  if (!isObject(event) || !isObject(event["error"])) return null;
  const error = event["error"];
  const status = STATUSES[textAt(error, "type") ?? ""] ?? 500;
  const after_s = status === 500 ? null : LATE_RETRY_S;
  return new ServiceError(status, textAt(error, "message") ?? "", textAt(error, "code"), after_s);
}
