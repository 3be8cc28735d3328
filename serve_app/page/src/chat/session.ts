// What the user does in the chat: asks, stops, regenerates, edits, goes on.
import { computed, signal, type ReadonlySignal } from "@preact/signals";
import { completionBody, continuationBody, type CompletionBody } from "../service/completion.ts";
import { parsed, isObject } from "../service/json.ts";
import { keep, recalled } from "../service/storage.ts";
import { now_ms } from "../service/now.ts";
import type { TierOffer } from "../service/offers.ts";
import {
  newAnswer,
  newConversation,
  newQuestion,
  resumed,
  turnsBefore,
  withoutTurn,
  withTurn,
  type Answer,
  type Conversation,
  type Turn,
} from "./conversation.ts";
import { startRun, type Run, type RunOptions } from "./runs.ts";
import { limitsOf, NO_CHOICES, readChoices, withinLimits, type TierChoices } from "./settings.ts";
import type { ConversationStore } from "./store.ts";

const CHOICES = "tierserve.choices";
/** A page that is closed in the middle of an answer loses no more of it; of a very long conversation,
 * which takes long to save, a little more. */
const SAVE_EVERY_MS = 1000;
const SAVE_MS_PER_TURN = 1;

type TurnsChange = (turns: readonly Turn[]) => readonly Turn[];

export class ChatSession {
  readonly store: ConversationStore;
  readonly offers = signal<readonly TierOffer[]>([]);
  /** What the user writes and has not sent: another view does not lose it. */
  readonly text = signal("");
  readonly #currentId = signal<string | null>(null);
  readonly #draft = signal<Conversation>(newConversation("chat", Date.now()));
  readonly #runs = signal<ReadonlyMap<string, Run>>(new Map());
  readonly #choices = signal<Readonly<Record<string, TierChoices>>>(storedChoices());
  /** The conversation on the screen; one without a question is kept nowhere yet. */
  readonly current: ReadonlySignal<Conversation> = computed(() => {
    const id = this.#currentId.value;
    const kept = this.store.all.value.find((conversation) => conversation.id === id);
    return kept ?? this.#draft.value;
  });
  /** Which tier answers next: the conversation's, where this service has it for this user. */
  readonly tier: ReadonlySignal<string> = computed(() => {
    const { tier } = this.current.value;
    const offers = this.offers.value;
    return offers.some((offer) => offer.name === tier) ? tier : (offers[0]?.name ?? tier);
  });
  readonly run: ReadonlySignal<Run | null> = computed(
    () => this.#runs.value.get(this.current.value.id) ?? null,
  );

  constructor(store: ConversationStore) {
    this.store = store;
  }

  runOf(conversation: Conversation): Run | null {
    return this.#runs.value.get(conversation.id) ?? null;
  }

  open(id: string): void {
    this.#currentId.value = id;
  }

  startNew(): void {
    this.#draft.value = newConversation(this.current.value.tier, Date.now());
    this.#currentId.value = null;
  }

  offerOf(name: string): TierOffer | undefined {
    return this.offers.value.find((tier) => tier.name === name);
  }

  /** Never above what the tier allows now, whatever it allowed when they were chosen. */
  choicesOf(tier: string): TierChoices {
    const choices = this.#choices.value[tier] ?? NO_CHOICES;
    const offer = this.offerOf(tier);
    return offer ? withinLimits(choices, offer, limitsOf(offer, {}, choices)) : choices;
  }

  choose(tier: string, choices: TierChoices): void {
    this.#choices.value = { ...this.#choices.value, [tier]: choices };
    keep(CHOICES, JSON.stringify(this.#choices.value));
  }

  chooseTier(tier: string): void {
    this.#change((conversation) => ({ ...conversation, tier }));
  }

  changeSystem(system: string): void {
    this.#change((conversation) => ({ ...conversation, system }));
  }

  rename(id: string, title: string): void {
    void this.store.change(id, (conversation) => ({ ...conversation, title: title.trim() }));
  }

  remove(id: string): void {
    this.#runs.value.get(id)?.stop();
    if (this.#currentId.value === id) this.startNew();
    void this.store.remove(id);
  }

  removeAll(): void {
    for (const run of this.#runs.value.values()) run.stop();
    this.startNew();
    void this.store.clear();
  }

  /** Throws SchemaTextError, as all that asks the service does. */
  ask(text: string): void {
    const question = newQuestion(text);
    this.#answer((turns) => [...turns, question]);
  }

  /** The answer anew, by the tier and the settings of now. */
  regenerate(answerId: string): void {
    this.#answer((turns) => turnsBefore(turns, answerId));
  }

  /** Asks again with another text; what came behind it is dropped. */
  editAndSend(questionId: string, text: string): void {
    const question = newQuestion(text);
    this.#answer((turns) => [...turnsBefore(turns, questionId), question]);
  }

  /** Lets the model go on from what an answer has. */
  goOn(answer: Answer): void {
    const conversation = this.current.value;
    const asked =
      answer.body ??
      completionBody(
        answer.tier,
        conversation,
        turnsBefore(conversation.turns, answer.id),
        this.choicesOf(answer.tier),
      );
    const figures = resumed(answer.figures, now_ms());
    const begun: Answer = { ...answer, state: "sent", error: null, finish: null, figures };
    const body = continuationBody(asked, answer.text);
    this.#start((turns) => withTurn(turns, begun), begun, body, { before: answer.figures });
  }

  deleteTurn(id: string): void {
    this.run.value?.stop();
    this.#change((conversation) => ({
      ...conversation,
      turns: withoutTurn(conversation.turns, id),
    }));
  }

  stop(): void {
    this.run.value?.stop();
  }

  #change(change: (conversation: Conversation) => Conversation): void {
    const conversation = this.current.value;
    if (this.store.get(conversation.id)) void this.store.change(conversation.id, change);
    else this.#draft.value = change(conversation);
  }

  #answer(asked: TurnsChange): void {
    const conversation = this.current.value;
    const tier = this.tier.value;
    const turns = asked(conversation.turns);
    const body = completionBody(tier, conversation, turns, this.choicesOf(tier));
    const answer = newAnswer(tier, now_ms());
    this.#start((kept) => [...asked(kept), answer], answer, body, {});
  }

  /** `change`: of the turns as they are kept by now, which another window may have written. */
  #start(change: TurnsChange, answer: Answer, body: CompletionBody, options: RunOptions): void {
    const conversation = this.current.value;
    const { id } = conversation;
    this.#runs.value.get(id)?.stop();
    const updated_ms = Date.now();
    const begin = (kept: Conversation): Conversation => {
      return { ...kept, turns: change(kept.turns), updated_ms };
    };
    if (this.store.get(id)) void this.store.change(id, begin);
    else void this.store.put(begin(conversation));
    this.#currentId.value = id;
    const every_ms = Math.max(SAVE_EVERY_MS, conversation.turns.length * SAVE_MS_PER_TURN);
    let next_ms = performance.now() + every_ms;
    const onFrame = (shown: Answer): void => {
      const at_ms = performance.now();
      if (at_ms < next_ms) return;
      next_ms = at_ms + every_ms;
      this.#save(id, shown);
    };
    const run = startRun(answer, body, { ...options, onFrame });
    this.#runs.value = new Map(this.#runs.value).set(id, run);
    void run.done.then((last) => {
      this.#save(id, last);
      if (this.#runs.value.get(id) !== run) return;
      const others = new Map(this.#runs.value);
      others.delete(id);
      this.#runs.value = others;
    });
  }

  #save(id: string, answer: Answer): void {
    const { figures } = answer;
    // Of an answer that is kept in mid-stream, its clock stands there.
    const kept = { ...answer, figures: { ...figures, ended_ms: figures.ended_ms ?? now_ms() } };
    void this.store.change(id, (conversation) => ({
      ...conversation,
      turns: withTurn(conversation.turns, kept),
    }));
  }
}

function storedChoices(): Readonly<Record<string, TierChoices>> {
  const stored = parsed(recalled(CHOICES) ?? "");
  if (!isObject(stored)) return {};
  return Object.fromEntries(
    Object.entries(stored).map(([tier, choices]) => [tier, readChoices(choices)]),
  );
}
