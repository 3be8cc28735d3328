// Asks in Open WebUI's page, and looks: the thought is folded, the answer stands below it.
// node page.mjs CHROMIUM ADDRESS TOKEN QUESTION [SCREENSHOT]
import { chromium } from "playwright-core";

const [executablePath, address, token, question, screenshot] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
try {
  const page = await browser.newPage({ viewport: { width: 1000, height: 640 } });
  await page.addInitScript((value) => localStorage.setItem("token", value), token);
  await page.goto(`${address}/?models=reasoning`, { waitUntil: "load" });
  // A notice of what is new lies over the page at the first visit.
  const notice = page.getByRole("button", { name: /Okay, Let's Go/i });
  await notice.click({ timeout: 15000 }).catch(() => {});
  await page.locator("#chat-input").click();
  await page.keyboard.type(question);
  await page.keyboard.press("Enter");
  const thought = page.getByText(/Thought for/i).first();
  await thought.waitFor({ timeout: 40000 });
  const answer = page.getByText(/The answer is/).last();
  await answer.waitFor({ timeout: 20000 });
  if (await page.getByText("So the result is").first().isVisible()) throw new Error("the thought is not folded");
  if (screenshot) await page.screenshot({ path: screenshot });
  await thought.click();
  await page.getByText("So the result is").first().waitFor({ timeout: 5000 });
} catch (error) {
  if (screenshot) await browser.contexts()[0]?.pages()[0]?.screenshot({ path: screenshot });
  throw error;
} finally {
  await browser.close();
}
