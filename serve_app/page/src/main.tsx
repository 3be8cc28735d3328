// Starts the page.
import { render } from "preact";
import { openDrive } from "./chat/drive.ts";
import { ChatSession } from "./chat/session.ts";
import { ConversationStore } from "./chat/store.ts";
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
  const store = new ConversationStore(await openDrive());
  await store.load();
  const session = new ChatSession(store);
  let timer = 0;
  const followOffers = async (): Promise<void> => {
    clearTimeout(timer);
    let again_ms = OFFERS_EVERY_MS;
    try {
      if (!document.hidden) session.offers.value = await fetchOffers();
      if (session.offers.value.some((tier) => !tier.ready)) again_ms = OFFERS_AGAIN_MS;
    } catch {
      again_ms = OFFERS_AGAIN_MS;
    }
    timer = setTimeout(() => void followOffers(), again_ms);
  };
  render(<App session={session} onKey={() => void followOffers()} />, root);
  await followOffers();
}

const root = document.getElementById("page");
if (root) void start(root);
