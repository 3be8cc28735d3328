// Which tier answers next.
import { english, type WordName } from "../words/english.ts";
import { t } from "../words/language.ts";
import type { ChatSession } from "./session.ts";

export function tierName(tier: string): string {
  const name = `tier.${tier}`;
  return name in english ? t(name as WordName) : tier;
}

export function TierChoice({ session }: { readonly session: ChatSession }) {
  const tiers = session.offers.value.map((tier) => tier.name);
  const chosen = session.tier.value;
  return (
    <fieldset class="segments">
      <legend class="unseen">{t("tier")}</legend>
      {(tiers.length > 0 ? tiers : ["chat", "reasoning"]).map((tier) => (
        <label key={tier} data-tier={tier}>
          <input
            type="radio"
            name="tier"
            value={tier}
            checked={tier === chosen}
            onChange={() => session.chooseTier(tier)}
          />
          <span>{tierName(tier)}</span>
        </label>
      ))}
    </fieldset>
  );
}
