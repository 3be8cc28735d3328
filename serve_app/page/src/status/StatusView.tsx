// The operator's view: every tier now, the last hour, why it was scaled, and who used it.
import { useNow } from "../shell/clock.ts";
import { openDialog } from "../shell/dialogs.ts";
import { Icon } from "../shell/Icon.tsx";
import { duration, t } from "../words/language.ts";
import { tiers, trouble, updated_ms, usage, useFollowing } from "./follow.ts";
import { outdated } from "./outdated.ts";
import { TierPanel } from "./TierPanel.tsx";
import { UsageTable } from "./UsageTable.tsx";

/** Younger figures are as good as new. */
const OLD_MS = 3000;

export function StatusView() {
  useFollowing();
  const known = tiers.value;
  return (
    <div class="status-view" tabIndex={0} role="group" aria-label={t("status")}>
      <h1 class="unseen">{t("status")}</h1>
      <Trouble />
      {outdated.value && (
        <p class="trouble" role="alert">
          <span>{t("outdated")}</span>
          <button type="button" onClick={() => location.reload()}>
            {t("reload")}
          </button>
        </p>
      )}
      {known === null && trouble.value === null && <p class="note">{t("loading")}</p>}
      {known?.map((tier) => (
        <TierPanel key={tier.name} tier={tier} />
      ))}
      {usage.value !== null && <UsageTable usage={usage.value} />}
    </div>
  );
}

function Trouble() {
  const now_ms = useNow(trouble.value === "silent", 1000);
  if (trouble.value === "refused") {
    return (
      <p class="trouble" role="alert">
        <span>{t("adminOnly")}</span>
        <button type="button" onClick={() => openDialog({ kind: "key" })}>
          <Icon name="key" /> {t("key")}
        </button>
      </p>
    );
  }
  const old_ms = now_ms - updated_ms.value;
  if (trouble.value !== "silent" || old_ms < OLD_MS) return null;
  const text =
    updated_ms.value === 0 ? t("unreachable") : t("statusStale", { time: duration(old_ms / 1000) });
  return (
    <p class="trouble" role="alert">
      {text}
    </p>
  );
}
