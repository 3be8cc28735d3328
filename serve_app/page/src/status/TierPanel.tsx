// One tier: its figures now, its replicas, its last hour, and its scaling.
import { tierName } from "../chat/TierChoice.tsx";
import { count, duration, language, t } from "../words/language.ts";
import { Chart, type Series } from "./Chart.tsx";
import { history } from "./follow.ts";
import type { StatusSample, TierSample } from "./history.ts";
import { ReplicaTable } from "./ReplicaTable.tsx";
import type { TierStatus } from "./tiers.ts";

export function TierPanel({ tier }: { readonly tier: TierStatus }) {
  const samples = history.value.filter((sample) => sample.tiers[tier.name] !== undefined);
  const last = samples.at(-1)?.tiers[tier.name];
  return (
    <section class="tier" aria-label={tierName(tier.name)}>
      <header>
        <h2>
          <span class="tier-mark" data-tier={tier.name}>
            {tierName(tier.name)}
          </span>
        </h2>
        <span class="mono">{tier.model ?? t("notKnown")}</span>
        <span class={`state ${tier.ready ? "good" : "warn"}`}>
          {tier.ready ? t("ready") : t("starting")}
        </span>
        {tier.message && <span class="note">{tier.message}</span>}
      </header>
      <Figures tier={tier} last={last} />
      <ReplicaTable replicas={tier.replicas} />
      <Charts tier={tier.name} samples={samples} />
      <Decisions tier={tier} />
    </section>
  );
}

function Figures({
  tier,
  last,
}: {
  readonly tier: TierStatus;
  readonly last: TierSample | undefined;
}) {
  const desired = tier.replicasDesired ?? t("notKnown");
  const used = tier.slots ? Math.min(1, (tier.running ?? 0) / tier.slots) : 0;
  return (
    <dl class="tiles">
      <Tile
        name="replicas"
        label={t("replicas")}
        value={t("replicasOf", { running: tier.replicasRunning, desired })}
      />
      <Tile
        name="slots"
        label={t("slots")}
        value={`${known(tier.running)} / ${known(tier.slots)}`}
        share={used}
      />
      <Tile name="queue" label={t("queue")} value={known(tier.queueDepth)} more={wait(tier)} />
      <Tile name="speed" label={t("speed")} value={known(tier.tokensPerS)} />
      <Tile
        name="ttft"
        label={`${t("ttft")}, p50`}
        value={time(last?.ttftP50_s)}
        more={p95(last?.ttftP95_s)}
      />
      <Tile
        name="wait"
        label={`${t("queueWait")}, p50`}
        value={time(last?.waitP50_s)}
        more={p95(last?.waitP95_s)}
      />
      <Tile
        name="refused"
        label={t("refusals")}
        value={known(last?.refused)}
        more={t("lastMinute")}
      />
    </dl>
  );
}

interface TileProps {
  readonly name: string;
  readonly label: string;
  readonly value: string;
  readonly more?: string;
  readonly share?: number;
}

function Tile({ name, label, value, more, share }: TileProps) {
  return (
    <div class="tile" data-tile={name}>
      <dt>{label}</dt>
      <dd>
        <span class="value">{value}</span>
        {more !== undefined && more !== "" && <small>{more}</small>}
        {share !== undefined && <progress value={share} max={1} aria-label={label} />}
      </dd>
    </div>
  );
}

function known(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : count(value);
}

function time(value_s: number | null | undefined): string {
  return value_s === null || value_s === undefined ? "–" : duration(value_s);
}

function p95(value_s: number | null | undefined): string {
  return `p95 ${time(value_s)} · ${t("lastMinute")}`;
}

function wait(tier: TierStatus): string {
  return tier.expectedWait_s ? t("expectedWait", { time: duration(tier.expectedWait_s) }) : "";
}

function Charts({
  tier,
  samples,
}: {
  readonly tier: string;
  readonly samples: readonly StatusSample[];
}) {
  if (samples.length < 2) return null;
  const times_s = samples.map((sample) => sample.at_s);
  const of = (name: keyof TierSample): readonly (number | null)[] =>
    samples.map((sample) => sample.tiers[tier]?.[name] ?? null);
  const quantiles = (p50: keyof TierSample, p95: keyof TierSample): readonly Series[] => [
    { label: "p95", tone: "violet", values: of(p95) },
    { label: "p50", tone: "accent", values: of(p50) },
  ];
  const common = { times_s };
  return (
    <div class="charts" role="group" aria-label={t("lastHour")}>
      <Chart
        {...common}
        title={t("speed")}
        whole
        written={count}
        series={[{ label: "", tone: "accent", values: of("tokensPerS") }]}
      />
      <Chart
        {...common}
        title={`${t("slots")} · ${t("queue")}`}
        whole
        written={count}
        series={[
          { label: t("slots"), tone: "soft", values: of("slots") },
          { label: t("running"), tone: "accent", values: of("running") },
          { label: t("queue"), tone: "violet", values: of("queueDepth") },
        ]}
      />
      <Chart
        {...common}
        title={t("ttft")}
        written={seconds}
        series={quantiles("ttftP50_s", "ttftP95_s")}
      />
      <Chart
        {...common}
        title={t("queueWait")}
        written={seconds}
        series={quantiles("waitP50_s", "waitP95_s")}
      />
      <Chart
        {...common}
        title={t("refusals")}
        whole
        written={count}
        series={[{ label: "", tone: "violet", values: of("refused") }]}
      />
      <Chart
        {...common}
        title={t("replicas")}
        whole
        written={count}
        series={[{ label: "", tone: "accent", values: of("replicas") }]}
      />
    </div>
  );
}

function seconds(value_s: number): string {
  return value_s >= 10 ? `${value_s.toFixed(0)} s` : `${Number(value_s.toPrecision(2))} s`;
}

function Decisions({ tier }: { readonly tier: TierStatus }) {
  return (
    <details class="decisions" open>
      <summary>{t("decisions")}</summary>
      {tier.reason !== null && <p>{t("decidedNow", { reason: tier.reason })}</p>}
      {tier.decisions.length === 0 ? (
        <p class="note">{t("noDecisions")}</p>
      ) : (
        <ol tabIndex={0} aria-label={t("decisions")}>
          {tier.decisions.map((decision) => (
            <li key={decision.at_s}>
              <time dateTime={new Date(decision.at_s * 1000).toISOString()}>
                {clockTime(decision.at_s)}
              </time>
              <strong>
                {t("decision", { desired: decision.desired, target: decision.target })}
              </strong>
              <span>{decision.reason}</span>
            </li>
          ))}
        </ol>
      )}
    </details>
  );
}

function clockTime(at_s: number): string {
  return new Date(at_s * 1000).toLocaleTimeString(language.value === "zh" ? "zh-CN" : "en-GB");
}
