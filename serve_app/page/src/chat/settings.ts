// What the user chooses for the requests to one tier, within what the tier allows.
import { isObject, numberAt, parsed, textAt, type JsonObject } from "../service/json.ts";
import { mostReasoning, tasksOf, type Bounds, type TierOffer } from "../service/offers.ts";

export const EFFORTS = ["none", "minimal", "low", "medium", "high"] as const;
export type Effort = (typeof EFFORTS)[number];

/** null everywhere: the tier's own default. */
export interface TierChoices {
  readonly temperature: number | null;
  readonly topP: number | null;
  readonly limit: number | null;
  readonly budget: number | null;
  readonly effort: Effort | null;
  readonly task: string | null;
  readonly seed: number | null;
  /** A JSON schema as text; empty: none. */
  readonly schema: string;
}

export const NO_CHOICES: TierChoices = {
  temperature: null,
  topP: null,
  limit: null,
  budget: null,
  effort: null,
  task: null,
  seed: null,
  schema: "",
};

export type NumericChoice = "temperature" | "topP" | "limit" | "budget" | "seed";

/** The bounds of each number, from the tier's live settings and its interface. */
export type Limits = Readonly<
  Record<NumericChoice, { readonly least: number; readonly most: number }>
>;

export function limitsOf(
  tier: TierOffer,
  fields: Readonly<Record<string, Bounds>>,
  choices: TierChoices,
): Limits {
  const within = (name: string, least: number, most: number) => ({
    least: Math.max(least, fields[name]?.least ?? least),
    most: Math.min(most, fields[name]?.most ?? most),
  });
  const most = tier.maxNewTokens ?? Number.MAX_SAFE_INTEGER;
  const limit = { least: 1, most };
  const granted = Math.min(choices.limit ?? most, most);
  return {
    temperature: within("temperature", 0, 2),
    topP: { ...within("top_p", 0.01, 1) },
    limit,
    budget: { least: 0, most: tier.reasons === false ? 0 : mostReasoning(tier, granted) },
    seed: { least: 0, most: Number.MAX_SAFE_INTEGER },
  };
}

/** The choices with every number inside its bounds, and no task that the tier does not know. */
export function withinLimits(choices: TierChoices, tier: TierOffer, limits: Limits): TierChoices {
  const bounded = (name: NumericChoice): number | null => {
    const value = choices[name];
    if (value === null || Number.isNaN(value)) return null;
    return Math.min(Math.max(value, limits[name].least), limits[name].most);
  };
  const whole = (name: NumericChoice): number | null => {
    const value = bounded(name);
    return value === null ? null : Math.round(value);
  };
  const reasons = tier.reasons !== false;
  return {
    temperature: bounded("temperature"),
    topP: bounded("topP"),
    limit: whole("limit"),
    budget: reasons ? whole("budget") : null,
    effort: reasons ? choices.effort : null,
    task: choices.task !== null && tasksOf(tier).includes(choices.task) ? choices.task : null,
    seed: whole("seed"),
    schema: choices.schema,
  };
}

/** The JSON schema that was entered; null: none. Throws SchemaTextError where it is not one. */
export function schemaOf(choices: TierChoices): JsonObject | null {
  if (choices.schema.trim() === "") return null;
  const schema = parsed(choices.schema);
  if (!isObject(schema)) throw new SchemaTextError();
  return schema;
}

export class SchemaTextError extends Error {
  override name = "SchemaTextError";
}

export function readChoices(stored: unknown): TierChoices {
  const effort = EFFORTS.find((each) => each === textAt(stored, "effort"));
  return {
    temperature: numberAt(stored, "temperature"),
    topP: numberAt(stored, "topP"),
    limit: numberAt(stored, "limit"),
    budget: numberAt(stored, "budget"),
    effort: effort ?? null,
    task: textAt(stored, "task"),
    seed: numberAt(stored, "seed"),
    schema: textAt(stored, "schema") ?? "",
  };
}
