// What each key has used.
import { count, duration, t } from "../words/language.ts";
import type { KeyUsage } from "./usage.ts";

export function UsageTable({ usage }: { readonly usage: readonly KeyUsage[] }) {
  return (
    <section class="tier" aria-label={t("usage")}>
      <h2>{t("usage")}</h2>
      {usage.length === 0 ? (
        <p class="note">{t("usageNone")}</p>
      ) : (
        <div class="wide" tabIndex={0} role="group" aria-label={t("usage")}>
          <table class="table">
            <thead>
              <tr>
                <th scope="col">{t("usageKey")}</th>
                <th scope="col">{t("usageRequests")}</th>
                <th scope="col">{t("usagePrompt")}</th>
                <th scope="col">{t("usageAnswer")}</th>
                <th scope="col">{t("refusals")}</th>
                <th scope="col">{t("usageGpu")}</th>
              </tr>
            </thead>
            <tbody>
              {usage.map((each) => (
                <tr key={each.key}>
                  <th scope="row">{each.key}</th>
                  <td>{count(each.requests)}</td>
                  <td>{count(each.promptTokens)}</td>
                  <td>{count(each.answerTokens)}</td>
                  <td>{count(each.refused)}</td>
                  <td>{duration(each.gpu_s)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}
