// Starts the page.
import { render } from "preact";
import { openDrive } from "./chat/drive.ts";
import { ChatSession } from "./chat/session.ts";
import { ConversationStore } from "./chat/store.ts";
import { openNews } from "./chat/windows.ts";
import { ServiceError } from "./service/client.ts";
import { recallKey } from "./service/key.ts";
import { fetchOffers } from "./service/offers.ts";
import { App } from "./shell/App.tsx";
import { followTheme } from "./shell/theme.ts";
import { followAddress } from "./shell/TopBar.tsx";
import { followLanguage } from "./words/language.ts";
import "./style/page.css";

/** What the tiers allow changes seldom; how they are is the other view's. */
const OFFERS_EVERY_MS = 30_000;
const OFFERS_AGAIN_MS = 3_000;

async function start(root: HTMLElement): Promise<void> {
  recallKey();
  followTheme();
  followLanguage();
  followAddress();
  const store = new ConversationStore(await openDrive(), openNews());
  await store.load();
  const session = new ChatSession(store);
  const offers = new OfferFollower(session);
  render(<App session={session} onKey={() => void offers.ask()} />, root);
  await offers.ask();
}

/** Keeps what the tiers offer up to date while the page is seen, and waits for a key where one is
 * needed. */
class OfferFollower {
  readonly #session: ChatSession;
  #timer = 0;

  constructor(session: ChatSession) {
    this.#session = session;
  }

  async ask(): Promise<void> {
    clearTimeout(this.#timer);
    if (document.hidden) {
      document.addEventListener("visibilitychange", () => void this.ask(), { once: true });
      return;
    }
    try {
      this.#session.offers.value = await fetchOffers();
    } catch (error) {
      if (error instanceof ServiceError && error.status === 401) return;
    }
    this.#timer = setTimeout(() => void this.ask(), this.#period_ms());
  }

  #period_ms(): number {
    const offers = this.#session.offers.value;
    const allReady = offers.length > 0 && offers.every((offer) => offer.ready);
    return allReady ? OFFERS_EVERY_MS : OFFERS_AGAIN_MS;
  }
}

const root = document.getElementById("page");
if (root) void start(root);
