// The bar above both views: which view, which language, which theme, the key.
import { signal } from "@preact/signals";
import { key, keysOn } from "../service/key.ts";
import { chooseLanguage, language, t } from "../words/language.ts";
import { openDialog } from "./dialogs.ts";
import { IconButton } from "./Icon.tsx";
import { chooseTheme, theme, type Theme } from "./theme.ts";

export type View = "chat" | "status";

export const view = signal<View>(location.hash === "#status" ? "status" : "chat");

export function followAddress(): void {
  addEventListener("hashchange", () => {
    view.value = location.hash === "#status" ? "status" : "chat";
  });
}

export function TopBar() {
  return (
    <header class="top">
      <a class="unseen skip" href="#conversation" onClick={skip}>
        {t("skip")}
      </a>
      <span class="brand">
        <svg viewBox="0 0 16 16" aria-hidden="true" focusable="false">
          <path class="brand-low" d="M2 9h12v5H2z" />
          <path class="brand-high" d="M4 2h8v5H4z" />
        </svg>
        tierserve
      </span>
      <nav aria-label={t("views")}>
        <a href="#chat" aria-current={view.value === "chat" ? "page" : undefined}>
          {t("chat")}
        </a>
        <a href="#status" aria-current={view.value === "status" ? "page" : undefined}>
          {t("status")}
        </a>
      </nav>
      <span class="spring" />
      {(key.value !== "" || keysOn.value) && (
        <IconButton icon="key" label={t("key")} onClick={() => openDialog({ kind: "key" })} />
      )}
      <select
        aria-label={t("theme")}
        value={theme.value}
        onChange={(event) => chooseTheme(event.currentTarget.value as Theme)}
      >
        <option value="auto">{t("themeAuto")}</option>
        <option value="light">{t("themeLight")}</option>
        <option value="dark">{t("themeDark")}</option>
      </select>
      <select
        aria-label={t("language")}
        value={language.value}
        onChange={(event) => chooseLanguage(event.currentTarget.value === "zh" ? "zh" : "en")}
      >
        <option value="en" lang="en">
          English
        </option>
        <option value="zh" lang="zh-CN">
          中文
        </option>
      </select>
    </header>
  );
}

/** The address keeps its view: the focus goes there instead. */
function skip(event: MouseEvent): void {
  event.preventDefault();
  document.querySelector<HTMLElement>("main textarea, main [tabindex='0']")?.focus();
}
