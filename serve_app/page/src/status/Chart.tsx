// One small chart of the last hour. uPlot is fetched when the first one is drawn.
import { useEffect, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { theme } from "../shell/theme.ts";
import { outdated } from "./outdated.ts";

export type Tone = "accent" | "violet" | "soft";

export interface Series {
  readonly label: string;
  readonly tone: Tone;
  readonly values: readonly (number | null)[];
}

interface ChartProps {
  readonly title: string;
  readonly times_s: readonly number[];
  readonly series: readonly Series[];
  readonly written: (value: number) => string;
  /** What is counted has no halves. */
  readonly whole?: boolean;
}

const HEIGHT_PX = 120;
const WHOLE_STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000];

export function Chart({ title, times_s, series, written, whole = false }: ChartProps) {
  const frame = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const data = [[...times_s], ...series.map((each) => [...each.values])] as uPlot.AlignedData;
  const newest = useRef(data);
  newest.current = data;
  const chosen = theme.value;
  useEffect(() => {
    const element = frame.current;
    if (!element) return undefined;
    let ended = false;
    void import("uplot").then(
      ({ default: Plot }) => {
        if (ended) return;
        plot.current = new Plot(options(element, series, written, whole), newest.current, element);
      },
      () => void (outdated.value = true),
    );
    const size = new ResizeObserver(() => {
      plot.current?.setSize({ width: element.clientWidth, height: HEIGHT_PX });
    });
    size.observe(element);
    return () => {
      ended = true;
      size.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [chosen]);
  useEffect(() => plot.current?.setData(newest.current), [times_s.at(-1), times_s.length]);
  const now = series.map((each) => `${each.label} ${shown(each.values.at(-1), written)}`);
  return (
    <figure class="chart">
      <figcaption>
        <span>{title}</span>
        <span class="legend">
          {series.map((each) => (
            <span key={each.label} data-tone={each.tone}>
              {each.label} {shown(each.values.at(-1), written)}
            </span>
          ))}
        </span>
      </figcaption>
      <div ref={frame} role="img" aria-label={`${title}: ${now.join(", ")}`} class="plot" />
    </figure>
  );
}

function shown(value: number | null | undefined, written: (value: number) => string): string {
  return value === null || value === undefined ? "–" : written(value);
}

function options(
  element: HTMLElement,
  series: readonly Series[],
  written: (value: number) => string,
  whole: boolean,
): uPlot.Options {
  const line = colourOf(element, "line");
  const text = colourOf(element, "soft");
  const axis = {
    stroke: text,
    grid: { stroke: line, width: 1 },
    ticks: { show: false },
    font: "11px system-ui",
  };
  return {
    width: element.clientWidth,
    height: HEIGHT_PX,
    legend: { show: false },
    cursor: { show: false },
    padding: [6, 16, 0, 0],
    scales: { y: { range: (_plot, _least, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [
      {
        ...axis,
        grid: { show: false },
        space: 70,
        size: 22,
        values: (_plot, times_s) => times_s.map((at_s) => clockTime(at_s, times_s)),
      },
      {
        ...axis,
        size: 52,
        space: 34,
        values: (_plot, values) => values.map(written),
        ...(whole && { incrs: WHOLE_STEPS }),
      },
    ],
    series: [
      {},
      ...series.map((each) => ({
        label: each.label,
        stroke: colourOf(element, each.tone),
        width: 1.6,
        points: { show: false },
        spanGaps: false,
      })),
    ],
  };
}

/** With seconds where the marks of the axis are less than a minute apart. */
function clockTime(at_s: number, marks_s: readonly number[]): string {
  const [first_s = 0, second_s = first_s + 60] = marks_s;
  return new Date(at_s * 1000).toLocaleTimeString("en-GB", {
    hour: "2-digit",
    minute: "2-digit",
    ...(second_s - first_s < 60 && { second: "2-digit" }),
  });
}

/** A colour of the theme as the canvas takes it. */
function colourOf(element: HTMLElement, tone: Tone | "line"): string {
  const probe = document.createElement("span");
  probe.className = "unseen";
  probe.dataset["tone"] = tone;
  element.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
