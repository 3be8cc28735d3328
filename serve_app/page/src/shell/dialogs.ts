// The one dialog that is open.
import { signal } from "@preact/signals";
import type { CompletionBody } from "../service/completion.ts";

export type OpenDialog =
  | { readonly kind: "settings"; readonly tier: string }
  | { readonly kind: "request"; readonly body: CompletionBody }
  | { readonly kind: "rename"; readonly id: string; readonly title: string }
  | { readonly kind: "key" }
  | {
      readonly kind: "confirm";
      readonly text: string;
      readonly act: string;
      readonly onConfirm: () => void;
    };

export const dialog = signal<OpenDialog | null>(null);

export function openDialog(opened: OpenDialog): void {
  dialog.value = opened;
}

export function closeDialog(): void {
  dialog.value = null;
}
