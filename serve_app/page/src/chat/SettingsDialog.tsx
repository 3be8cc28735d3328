// The settings of one tier, each with what the tier allows and does by itself.
import { useEffect, useRef, useState } from "preact/hooks";
import { Dialog } from "../shell/Dialog.tsx";
import { getJson } from "../service/client.ts";
import {
  fieldBounds,
  samplingDefault,
  tasksOf,
  type Bounds,
  type TierOffer,
} from "../service/offers.ts";
import { count, t } from "../words/language.ts";
import type { ChatSession } from "./session.ts";
import {
  EFFORTS,
  limitsOf,
  NO_CHOICES,
  schemaOf,
  withinLimits,
  type Effort,
  type Limits,
  type NumericChoice,
  type TierChoices,
} from "./settings.ts";
import { tierName } from "./TierChoice.tsx";

interface SettingsProps {
  readonly session: ChatSession;
  readonly tier: string;
  readonly onClose: () => void;
}

export function SettingsDialog({ session, tier, onClose }: SettingsProps) {
  const offer = session.offerOf(tier);
  const fields = useFieldBounds(tier);
  const conversation = session.current.value;
  const choices = session.choicesOf(tier);
  return (
    <Dialog title={t("settingsOf", { tier: tierName(tier) })} onClose={onClose} class="settings">
      <label class="field">
        <span>{t("system")}</span>
        <textarea
          rows={3}
          dir="auto"
          value={conversation.system}
          onInput={(event) => session.changeSystem(event.currentTarget.value)}
        />
        <small>{t("systemHint")}</small>
      </label>
      {offer ? (
        <Choices
          offer={offer}
          fields={fields}
          choices={choices}
          onChange={(changed) => session.choose(tier, changed)}
        />
      ) : (
        <p>{t("notReady")}</p>
      )}
      <footer>
        <button type="button" onClick={() => session.choose(tier, NO_CHOICES)}>
          {t("reset")}
        </button>
        <button type="button" class="primary" onClick={onClose}>
          {t("close")}
        </button>
      </footer>
    </Dialog>
  );
}

/** What the service's own description of itself bounds; half a megabyte, so only asked for here. */
function useFieldBounds(tier: string): Readonly<Record<string, Bounds>> {
  const [fields, setFields] = useState<Readonly<Record<string, Bounds>>>({});
  useEffect(() => {
    const abort = new AbortController();
    getJson("/openapi.json", abort.signal)
      .then((document) => setFields(fieldBounds(document, tier)))
      .catch(() => undefined);
    return () => abort.abort();
  }, [tier]);
  return fields;
}

interface ChoicesProps {
  readonly offer: TierOffer;
  readonly fields: Readonly<Record<string, Bounds>>;
  readonly choices: TierChoices;
  readonly onChange: (choices: TierChoices) => void;
}

function Choices({ offer, fields, choices, onChange }: ChoicesProps) {
  const limits = limitsOf(offer, fields, choices);
  const change = (changed: Partial<TierChoices>): void => {
    const next = { ...choices, ...changed };
    onChange(withinLimits(next, offer, limitsOf(offer, fields, next)));
  };
  const common = { limits, choices, change };
  const reasons = offer.reasons !== false && limits.budget.most > 0;
  return (
    <div class="fields">
      <NumberField
        {...common}
        name="temperature"
        label={t("temperature")}
        step={0.05}
        byDefault={samplingDefault(offer, "temperature")}
      />
      <NumberField
        {...common}
        name="topP"
        label={t("topP")}
        step={0.01}
        byDefault={samplingDefault(offer, "top_p")}
      />
      <NumberField
        {...common}
        name="limit"
        label={t("limit")}
        step={1}
        byDefault={offer.maxNewTokens}
      />
      {reasons ? (
        <>
          <NumberField {...common} name="budget" label={t("budget")} step={1} byDefault={null} />
          <EffortField choices={choices} change={change} />
        </>
      ) : (
        <p class="note">{t("notReasoning")}</p>
      )}
      <label class="field">
        <span>{t("task")}</span>
        <select
          value={choices.task ?? ""}
          onChange={(event) => change({ task: event.currentTarget.value || null })}
        >
          <option value="">{t("byDefault")}</option>
          {tasksOf(offer).map((task) => (
            <option key={task} value={task}>
              {task}
            </option>
          ))}
        </select>
      </label>
      <NumberField {...common} name="seed" label={t("seed")} step={1} byDefault={null} />
      <SchemaField choices={choices} change={change} />
    </div>
  );
}

type Change = (changed: Partial<TierChoices>) => void;

interface NumberFieldProps {
  readonly name: NumericChoice;
  readonly label: string;
  readonly step: number;
  readonly byDefault: number | null;
  readonly limits: Limits;
  readonly choices: TierChoices;
  readonly change: Change;
}

function NumberField({ name, label, step, byDefault, limits, choices, change }: NumberFieldProps) {
  const { least, most } = limits[name];
  const value = choices[name];
  const shown = value === null ? "" : String(value);
  const [text, setText] = useState(shown);
  const input = useRef<HTMLInputElement>(null);
  // What was entered beyond the limit is shown, once it is entered, as what is sent.
  const settle = (): void => setText(shown);
  useEffect(() => {
    if (document.activeElement !== input.current) settle();
  }, [shown]);
  const bounded = most < Number.MAX_SAFE_INTEGER;
  return (
    <label class="field">
      <span>{label}</span>
      <input
        ref={input}
        type="number"
        inputMode="decimal"
        min={least}
        max={bounded ? most : undefined}
        step={step}
        value={text}
        placeholder={byDefault === null ? t("byDefault") : t("defaultIs", { value: byDefault })}
        onInput={(event) => {
          const entered = event.currentTarget.valueAsNumber;
          setText(event.currentTarget.value);
          change({ [name]: Number.isNaN(entered) ? null : entered });
        }}
        onBlur={settle}
      />
      {bounded && <small>{t("between", { least: written(least), most: written(most) })}</small>}
    </label>
  );
}

function written(value: number): string {
  return Number.isInteger(value) ? count(value) : String(value);
}

function EffortField({
  choices,
  change,
}: {
  readonly choices: TierChoices;
  readonly change: Change;
}) {
  const chosen = (value: string): Effort | null =>
    EFFORTS.find((effort) => effort === value) ?? null;
  return (
    <label class="field">
      <span>{t("effort")}</span>
      <select
        value={choices.effort ?? ""}
        disabled={choices.budget !== null}
        onChange={(event) => change({ effort: chosen(event.currentTarget.value) })}
      >
        <option value="">{t("byDefault")}</option>
        {EFFORTS.map((effort) => (
          <option key={effort} value={effort}>
            {t(`effort.${effort}`)}
          </option>
        ))}
      </select>
      {choices.budget !== null && <small>{t("budgetWins")}</small>}
    </label>
  );
}

function SchemaField({
  choices,
  change,
}: {
  readonly choices: TierChoices;
  readonly change: Change;
}) {
  const wrong = !isSchema(choices);
  return (
    <label class="field whole">
      <span>{t("schema")}</span>
      <textarea
        rows={4}
        dir="ltr"
        spellcheck={false}
        class="mono"
        aria-invalid={wrong}
        placeholder='{"type": "object", "properties": {"answer": {"type": "integer"}}}'
        value={choices.schema}
        onInput={(event) => change({ schema: event.currentTarget.value })}
      />
      {wrong && <small role="alert">{t("schemaWrong")}</small>}
    </label>
  );
}

function isSchema(choices: TierChoices): boolean {
  try {
    schemaOf(choices);
    return true;
  } catch {
    return false;
  }
}
