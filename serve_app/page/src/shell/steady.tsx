// Parts that are many: each is drawn again only when it has changed.
import { Component, type ComponentChild, type ComponentType } from "preact";

/** The component, drawn by its parent only with another property; what it does (a function) is taken
 * to stay what it was. Signals that it reads draw it as ever. */
export function steady<Props extends object>(Part: ComponentType<Props>): ComponentType<Props> {
  return class Steady extends Component<Props> {
    override shouldComponentUpdate(next: Props): boolean {
      const before = this.props as Readonly<Record<string, unknown>>;
      return Object.entries(next).some(
        ([name, value]) => typeof value !== "function" && before[name] !== value,
      );
    }

    override render(): ComponentChild {
      return <Part {...(this.props as Props)} />;
    }
  };
}
