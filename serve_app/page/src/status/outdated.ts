// Parts of the page that are fetched later have gone where the service has a newer page by then.
import { signal } from "@preact/signals";

export const outdated = signal(false);
