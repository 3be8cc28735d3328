// The replicas of a tier: where they are, how they are, and how their start went.
import { count, duration, t } from "../words/language.ts";
import type { ReplicaStatus } from "./tiers.ts";

/** The phase that has all others in it. */
const TOTAL = "total";

export function ReplicaTable({ replicas }: { readonly replicas: readonly ReplicaStatus[] }) {
  if (replicas.length === 0) return <p class="note">{t("noReplicas")}</p>;
  return (
    <div class="wide" tabIndex={0} role="group" aria-label={t("replicas")}>
      <table class="table">
        <thead>
          <tr>
            <th scope="col">{t("replica")}</th>
            <th scope="col">{t("gpu")}</th>
            <th scope="col">{t("state")}</th>
            <th scope="col">{t("phase")}</th>
            <th scope="col">{t("slots")}</th>
            <th scope="col">{t("queue")}</th>
            <th scope="col">{t("speed")}</th>
            <th scope="col">{t("kvCache")}</th>
          </tr>
        </thead>
        <tbody>
          {replicas.map((replica) => (
            <Row key={replica.name} replica={replica} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ replica }: { readonly replica: ReplicaStatus }) {
  const { kvCacheUsage, tokensPerS } = replica;
  return (
    <tr>
      <th scope="row" class="mono">
        {replica.name}
      </th>
      <td>
        {replica.gpu || replica.hardware} <span class="note mono">{replica.node.slice(0, 8)}</span>
      </td>
      <td>
        <span class={`state ${replica.ready ? "good" : "warn"}`}>
          {replica.ready ? t("ready") : t("starting")}
        </span>
        {replica.stale && (
          <span class="note"> {t("late", { time: duration(replica.reportAge_s) })}</span>
        )}
      </td>
      <td>{phase(replica)}</td>
      <td>
        {count(replica.running)} / {count(replica.slots)}
      </td>
      <td>{count(replica.queueDepth)}</td>
      <td>{tokensPerS === null ? "–" : count(tokensPerS)}</td>
      <td>{kvCacheUsage === null ? "–" : `${(kvCacheUsage * 100).toFixed(0)} %`}</td>
    </tr>
  );
}

/** Of a replica that starts the phase that ended last, of another one how long its start took. */
function phase(replica: ReplicaStatus) {
  const total = replica.phases_s.find(([name]) => name === TOTAL);
  const parts = replica.phases_s.filter(([name]) => name !== TOTAL);
  const all = parts.map(([name, seconds]) => `${name} ${duration(seconds)}`).join(", ");
  const last = total ?? parts.at(-1);
  if (!last) return "–";
  return (
    <span title={all}>
      {total ? "" : `${last[0]} `}
      {duration(last[1])}
      <span class="unseen"> ({all})</span>
    </span>
  );
}
